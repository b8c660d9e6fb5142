//! Writes every tiny model as a checkpoint directory: `tiny_checkpoints DIR` makes `DIR/llama`, ...

use std::{env, error::Error, path::PathBuf};

use chaski_models::testing::{CheckpointOptions, Variant, write_checkpoint};

fn main() -> Result<(), Box<dyn Error>> {
    let dir = PathBuf::from(env::args_os().nth(1).ok_or("usage: tiny_checkpoints DIR")?);
    for variant in Variant::ALL {
        write_checkpoint(
            &dir.join(variant.name()),
            variant,
            &CheckpointOptions::default(),
        )?;
    }
    Ok(())
}
