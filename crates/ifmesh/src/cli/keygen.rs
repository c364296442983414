use std::path::PathBuf;

use clap::Args;
use ifmesh::{Identity, read_identity, setup};
use serde_json::json;

use super::{Failure, exit, print_json};

/// Make a key, or show the public half of one.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ifmesh keygen keys/agent-legal.pem
  ifmesh keygen --show keys/agent-legal.pem
  openssl genpkey -algorithm ed25519 -out key.pem && ifmesh keygen --show key.pem")]
pub(crate) struct Keygen {
    /// The private key's file (PKCS#8 PEM). It must not exist yet.
    file: PathBuf,
    /// Make nothing; show the public half of the key that is there.
    #[arg(long)]
    show: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

impl Keygen {
    pub(crate) fn run(self) -> Result<u8, Failure> {
        let identity = if self.show {
            read_identity(&self.file).map_err(Failure::usage)?
        } else {
            let identity = Identity::generate(&mut *ifmesh::random());
            setup::write_key(&self.file, &identity).map_err(Failure::usage)?;
            identity
        };
        let key = identity.public_key();
        if self.json {
            print_json(&json!({
                "public_key": key.to_hex(),
                "key_id": key.id().to_hex(),
                "did": key.to_did_key(),
            }));
        } else {
            println!(
                "public key  {key}\nkey id      {}\ndid         {}",
                key.id(),
                key.to_did_key()
            );
        }
        Ok(exit::DONE)
    }
}
