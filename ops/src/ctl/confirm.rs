//! Whether an operator means what cannot be taken back.

use std::io::{IsTerminal as _, Read as _};

use super::CtlError;
use crate::output::remark;

/// What has to be typed.
const WORD: &str = "yes";

/// Asks whether to go on with what loses something; `yes` says that it was meant.
///
/// # Errors
/// It was not, or there is no one to ask.
pub(super) fn ask(yes: bool, what: &str) -> Result<(), CtlError> {
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        return Err(CtlError::Usage(format!("{what}: say --yes if that is meant, or --dry-run to see more")));
    }
    remark(&format!("{what}. Type {WORD} to go on:"));
    match typed().trim() == WORD {
        true => Ok(()),
        false => Err(CtlError::Usage("nothing is done".to_owned())),
    }
}

/// One line, bounded.
fn typed() -> String {
    let mut line = Vec::new();
    for byte in std::io::stdin().lock().take(64).bytes() {
        match byte {
            Ok(byte) if byte != b'\n' => line.push(byte),
            Ok(_) | Err(_) => break,
        }
    }
    String::from_utf8_lossy(&line).into_owned()
}
