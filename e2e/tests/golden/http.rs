//! One HTTP request: all that the script asks of the server API.

use anyhow::{Context as _, Result};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Sends a JSON body; returns the status and what JSON came back.
pub(crate) async fn post(url: &str, token: &str, body: &Value) -> Result<(u16, Value)> {
    let body = body.to_string();
    let (host, path) = split(url)?;
    // Version 1.0 knows no chunks: the answer ends with the connection.
    let request = format!(
        "POST {path} HTTP/1.0\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let (status, text) = exchange(host, &request).await?;
    Ok((status, serde_json::from_str(&text).with_context(|| format!("{path} answers {text}"))?))
}

/// Asks for a resource; returns the status.
pub(crate) async fn get(url: &str) -> Result<u16> {
    let (host, path) = split(url)?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: {host}\r\n\r\n");
    Ok(exchange(host, &request).await?.0)
}

/// `http://host:port/path` → host with port, path.
fn split(url: &str) -> Result<(&str, &str)> {
    let rest = url.strip_prefix("http://").context("plain HTTP only")?;
    let at = rest.find('/').unwrap_or(rest.len());
    let (host, path) = rest.split_at(at);
    Ok((host, if path.is_empty() { "/" } else { path }))
}

async fn exchange(host: &str, request: &str) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect(host).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").context("an answer without a head")?;
    let status = head.split(' ').nth(1).context("an answer without a status")?.parse()?;
    Ok((status, body.to_owned()))
}
