//! The help of the command line, as it is printed in the characters of the locale.

use std::process::{Command, Stdio};

fn printed(locale: &str, arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_tcp-monitor"))
        .args(arguments)
        .env("LC_ALL", locale)
        .stdin(Stdio::null())
        .output()
        .expect("the binary starts");
    String::from_utf8([output.stdout, output.stderr].concat()).expect("UTF-8")
}

#[test]
fn help_and_usage_errors_are_ascii_in_the_c_locale() {
    for arguments in [&["--help"][..], &["-h"], &["read", "--help"], &["--frobnicate", "→"]] {
        let text = printed("C", arguments);
        assert!(text.contains("Usage: tcp-monitor"), "{arguments:?}: {text}");
        assert!(text.is_ascii(), "{arguments:?}: {text}");
    }
    let help = printed("C", &["--help"]);
    assert!(help.contains("SYN_RECV -> ESTABLISHED"), "{help}");
    // A character without a replacement would be escaped.
    assert!(!help.contains("\\u{"), "{help}");
    assert!(printed("C.UTF-8", &["--help"]).contains("SYN_RECV → ESTABLISHED"));
}
