//! The reference of the API as Markdown, from the schema.

use std::fmt::Write as _;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};

/// One row of the reference.
struct Row {
    path: String,
    kind: String,
    default: String,
    text: String,
}

/// Writes the reference of every version of a definition.
#[must_use]
pub fn markdown(definition: &CustomResourceDefinition, notice: &str) -> String {
    let names = &definition.spec.names;
    let mut page = format!("<!-- {notice} -->\n\n# {}\n\n", names.kind);
    for version in &definition.spec.versions {
        let Some(schema) =
            version.schema.as_ref().and_then(|schema| schema.open_api_v3_schema.as_ref())
        else {
            continue;
        };
        let short = names.short_names.as_deref().unwrap_or_default().join(", ");
        let _ = writeln!(
            page,
            "{}\n\n`apiVersion: {}/{}`, `kind: {}`, short name `{short}`.\n",
            schema.description.as_deref().unwrap_or_default(),
            definition.spec.group,
            version.name,
            names.kind,
        );
        for part in ["spec", "status"] {
            if let Some(schema) = schema.properties.as_ref().and_then(|all| all.get(part)) {
                write_part(&mut page, part, schema);
            }
        }
        write_rules(&mut page, schema);
    }
    page
}

fn write_part(page: &mut String, part: &str, schema: &JSONSchemaProps) {
    let _ = writeln!(page, "## {part}\n\n| Field | Type | Default | |\n|---|---|---|---|");
    let mut rows = Vec::new();
    collect(part, schema, &mut rows);
    for Row { path, kind, default, text } in rows {
        let _ = writeln!(page, "| `{path}` | {kind} | {default} | {text} |");
    }
    page.push('\n');
}

fn collect(path: &str, schema: &JSONSchemaProps, rows: &mut Vec<Row>) {
    let required = schema.required.as_deref().unwrap_or_default();
    for (name, field) in schema.properties.iter().flatten() {
        let path = format!("{path}.{name}");
        rows.push(row(&path, field, required.contains(name)));
        match &field.items {
            Some(JSONSchemaPropsOrArray::Schema(items)) => {
                collect(&format!("{path}[]"), items, rows)
            }
            Some(JSONSchemaPropsOrArray::Schemas(_)) | None => collect(&path, field, rows),
        }
    }
}

fn row(path: &str, field: &JSONSchemaProps, required: bool) -> Row {
    let default = match &field.default {
        // The defaults of its own fields have rows of their own.
        Some(value) if value.0.is_object() => String::new(),
        Some(value) => format!("`{}`", value.0),
        None if required && path.starts_with("spec") => "**required**".to_owned(),
        None => String::new(),
    };
    let text = field.description.as_deref().unwrap_or_default();
    Row {
        path: path.to_owned(),
        kind: kind(field),
        default,
        text: text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|"),
    }
}

fn kind(field: &JSONSchemaProps) -> String {
    if let Some(values) = &field.enum_ {
        let words: Vec<_> =
            values.iter().filter_map(|value| value.0.as_str()).map(|v| format!("`{v}`")).collect();
        return words.join(", ");
    }
    if field.x_kubernetes_int_or_string == Some(true) {
        return "quantity".to_owned();
    }
    let base = field.type_.as_deref().unwrap_or("any");
    let range = match (field.minimum, field.maximum) {
        (Some(least), Some(most)) => format!(" {least}–{most}"),
        (Some(least), None) => format!(" ≥ {least}"),
        (None, Some(most)) => format!(" ≤ {most}"),
        (None, None) => String::new(),
    };
    match (&field.items, &field.additional_properties) {
        (Some(JSONSchemaPropsOrArray::Schema(items)), _) => format!("list of {}", kind(items)),
        (_, Some(JSONSchemaPropsOrBool::Schema(values))) => format!("map to {}", kind(values)),
        _ => format!("{base}{range}"),
    }
}

/// What the API server refuses besides wrong types.
fn write_rules(page: &mut String, schema: &JSONSchemaProps) {
    page.push_str("## Refused\n\nThe API server refuses what breaks one of these rules:\n\n");
    let mut messages = Vec::new();
    collect_rules(schema, &mut messages);
    for message in messages {
        let _ = writeln!(page, "- {message}");
    }
}

fn collect_rules(schema: &JSONSchemaProps, messages: &mut Vec<String>) {
    let rules = schema.x_kubernetes_validations.iter().flatten();
    messages.extend(rules.filter_map(|rule| rule.message.clone()));
    for field in schema.properties.iter().flatten().map(|(_, field)| field) {
        collect_rules(field, messages);
    }
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &schema.items {
        collect_rules(items, messages);
    }
}
