//! Writes the generated files anew: `cargo run -p crds --bin generate`.

use std::error::Error;
use std::fs;

use crds::generated;

fn main() -> Result<(), Box<dyn Error>> {
    for file in generated::files()? {
        let path = file.absolute_path();
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        fs::write(path, file.text)?;
    }
    Ok(())
}
