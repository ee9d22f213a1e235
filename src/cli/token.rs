//! `postern token`: a bearer token, shown once, and the hash that the configuration keeps.

use std::process::ExitCode;

use crate::web::auth;

#[derive(clap::Args)]
pub struct Arguments {
    /// The client's name, as in `[[client]] name`.
    client: String,
}

pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let (token, hash) = auth::new_token();
    println!("token: {token}");
    println!("token_hash: {hash}");
    eprintln!(
        "\nThe token is shown this once; give it to the client. For the configuration:\n\n\
         [[client]]\nname = {:?}\ntoken_hash = \"{hash}\"\nscopes = [\"read\"]",
        arguments.client
    );
    Ok(ExitCode::SUCCESS)
}
