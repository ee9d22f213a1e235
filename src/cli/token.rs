//! `postern token`: what a client proves itself with, shown once, and the hash that the configuration keeps.

use std::io::{BufRead as _, Read as _};
use std::process::ExitCode;

use anyhow::{Context as _, bail};

use crate::web::auth;

/// What is shorter can be guessed.
const PASSWORD_CHARS_MIN: usize = 12;
const PASSWORD_BYTES_MAX: u64 = 1024;

#[derive(clap::Args)]
pub struct Arguments {
    /// The client's name, as in `[[client]] name`.
    client: String,
    /// Make a password for HTTP Basic, for clients that can't send a token.
    #[arg(long)]
    password: bool,
    /// Read the password from the first line of standard input.
    #[arg(long, conflicts_with = "password")]
    password_stdin: bool,
}

pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    if arguments.client.is_empty() || (is_password(arguments) && arguments.client.contains(':')) {
        bail!("a client's name must not be empty, and with a password it must not hold a colon");
    }
    let (key, hash) = if arguments.password_stdin {
        ("password_hash", auth::hash_password(&read_password()?))
    } else if arguments.password {
        let password = auth::new_password();
        println!("password: {password}");
        ("password_hash", auth::hash_password(&password))
    } else {
        let (token, hash) = auth::new_token();
        println!("token: {token}");
        ("token_hash", hash)
    };
    println!("{key}: {hash}");
    let what = if is_password(arguments) { "password" } else { "token" };
    eprintln!(
        "\nThe {what} is shown this once; give it to the client. For the configuration:\n\n\
         [[client]]\nname = {:?}\n{key} = \"{hash}\"\nscopes = [\"read\"]",
        arguments.client
    );
    Ok(ExitCode::SUCCESS)
}

fn is_password(arguments: &Arguments) -> bool {
    arguments.password || arguments.password_stdin
}

fn read_password() -> anyhow::Result<String> {
    let mut line = String::new();
    let stdin = std::io::stdin().lock();
    stdin.take(PASSWORD_BYTES_MAX + 2).read_line(&mut line).context("can't read the password from standard input")?;
    let password = line.trim_end_matches(['\r', '\n']);
    if password.chars().count() < PASSWORD_CHARS_MIN || password.len() as u64 > PASSWORD_BYTES_MAX {
        bail!("a password must have {PASSWORD_CHARS_MIN} characters at least, and {PASSWORD_BYTES_MAX} bytes at most");
    }
    Ok(password.to_owned())
}
