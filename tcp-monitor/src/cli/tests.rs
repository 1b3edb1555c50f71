//! What the command line accepts, what it refuses and how it says so.

use std::ffi::OsStr;
use std::time::Duration;

use clap::CommandFactory;
use clap::error::ErrorKind;

use super::{Cli, ColorMode, Listen, Monitor, NetnsOption, OutputFormat, TextView};

fn parse(arguments: &[&str]) -> Result<Monitor, clap::Error> {
    Cli::read([&["tcp-monitor"], arguments].concat()).map(|cli| cli.monitor)
}

/// The message that `arguments` are refused with, or the empty string if they are not.
fn refusal(arguments: &[&str]) -> String {
    parse(arguments).err().map(|error| error.to_string()).unwrap_or_default()
}

#[test]
fn the_definition_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn defaults_are_what_the_help_says() -> Result<(), clap::Error> {
    let monitor = parse(&[])?;
    assert!(monitor.port_set().is_empty());
    assert!(monitor.interfaces.is_empty());
    assert_eq!(monitor.netns, NetnsOption::All);
    assert_eq!(monitor.max_ports, 256);
    assert_eq!(monitor.report.max_connections, 262_144);
    assert_eq!(monitor.report.output, OutputFormat::Text);
    assert_eq!((monitor.report.view, monitor.report.ascii), (TextView::Log, false));
    assert_eq!(monitor.report.color, ColorMode::Auto);
    assert_eq!(monitor.listen.to_string(), "127.0.0.1:9899");
    assert_eq!(monitor.ring_size.bytes(), 4 * 1024 * 1024);
    assert_eq!((monitor.report.count, monitor.duration, monitor.write), (None, None, None));
    assert!(!monitor.bpf_stats && !monitor.kernel_log && !monitor.force_clsact);
    Ok(())
}

#[test]
fn ports_and_interfaces_add_up() -> Result<(), clap::Error> {
    let monitor = parse(&["-p", "443,80", "--port=8000-8100", "-p81", "-i", "eth0", "--interface", "lo"])?;
    assert_eq!(monitor.port_set().to_string(), "80-81,443,8000-8100");
    let names: Vec<_> = monitor.interfaces.iter().map(|name| name.as_str()).collect();
    assert_eq!(names, ["eth0", "lo"]);
    Ok(())
}

#[test]
fn wrong_usage_exits_with_2_and_names_flag_value_and_cause() {
    for (arguments, parts) in [
        (&["-p", "70000"][..], &["'70000'", "--port", "port 70000 is out of range 1-65535"][..]),
        (&["-p", "20-10"], &["range 20-10 runs backwards: write 10-20"]),
        (&["-i", "a-name-that-is-too-long"], &["--interface", "1 to 15 bytes"]),
        (&["-i", "eth0/1"], &["not an interface name"]),
        (&["-i", ""], &["--interface"]),
        (&["--view", "ladder", "-o", "json"], &["--view", "needs --output text"]),
        (&["read", "--view", "table", "-o", "none", "a.pcap"], &["--view", "needs --output text"]),
        (&["--netns", "a/b"], &["--netns", "`ip netns`"]),
        (&["--netns", ".."], &["--netns"]),
        (&["--max-ports", "0"], &["--max-ports", "from 1 to 4096"]),
        (&["--max-ports", "4097"], &["--max-ports", "from 1 to 4096"]),
        (&["--max-connections", "0"], &["--max-connections", "from 1 to 16777216"]),
        (&["--max-connections", "99999999"], &["--max-connections", "from 1 to 16777216"]),
        (&["-w", "-"], &["--write", "--output none"]),
        (&["-w", "-", "-o", "json"], &["--write", "--output none"]),
        (&["-w"], &["--write"]),
        (&["-o", "xml"], &["--output", "text, json, none"]),
        (&["--color", "sometimes"], &["auto, always, never"]),
        (&["--listen", "9899"], &["--listen", "127.0.0.1:9899", "none"]),
        (&["--listen", "localhost:9899"], &["not an IP address and a port"]),
        (&["--count", "0"], &["--count", "from 1 to"]),
        (&["--count", "ten"], &["'ten'", "--count", "from 1 to"]),
        (&["--duration", "0"], &["more than 0"]),
        (&["--duration", "9000h"], &["at most 8760h"]),
        (&["--ring-size", "100K"], &["write 64K or 128K"]),
        (&["--ring-size", "3M"], &["write 2M or 4M"]),
        (&["--ring-size", "2K"], &["from 4K to 1G"]),
        (&["--ring-size", "2G"], &["from 4K to 1G"]),
        (&["--frobnicate"], &["--frobnicate"]),
        (&["8899"], &["8899"]),
    ] {
        let message = refusal(arguments);
        for part in parts {
            assert!(message.contains(part), "{arguments:?} lacks {part:?}:\n{message}");
        }
        assert_eq!(parse(arguments).map_err(|error| error.exit_code()).err(), Some(2), "{arguments:?}");
    }
}

#[test]
fn a_negative_number_is_refused_as_a_value_and_not_as_a_flag() {
    for (flag, value, part) in [
        ("--port", "-1", "neither a port nor a range: write"),
        ("--max-ports", "-1", "write a whole number from 1 to 4096"),
        ("--max-connections", "-1", "write a whole number from 1 to 16777216"),
        ("--count", "-1", "write a whole number from 1 to"),
        ("--stuck-after", "-1", "not a duration: write"),
        ("--stuck-after", "-1.5m", "not a duration: write"),
        ("--duration", "-1", "not a duration: write"),
        ("--duration", "-5m", "not a duration: write"),
        ("--ring-size", "-4", "not a size: write"),
        ("--ring-size", "-4M", "not a size: write"),
    ] {
        let message = refusal(&[flag, value]);
        for part in [&format!("invalid value '{value}' for '{flag} "), part] {
            assert!(message.contains(part), "{flag} {value} lacks {part:?}:\n{message}");
        }
    }
    for arguments in [
        ["read", "--port", "-1", "a"],
        ["read", "--count", "-1", "a"],
        ["read", "--max-connections", "-1", "a"],
    ] {
        let message = refusal(&arguments);
        assert!(message.contains("invalid value '-1'") && message.contains(": write "), "{message}");
    }
}

#[test]
fn ring_sizes_are_read_with_and_without_a_unit() -> Result<(), clap::Error> {
    for (text, bytes, shown) in [
        ("65536", 65536, "64K"),
        ("256K", 262_144, "256K"),
        ("1m", 1 << 20, "1M"),
        ("16M", 16 << 20, "16M"),
        ("1024M", 1 << 30, "1G"),
        ("1G", 1 << 30, "1G"),
    ] {
        let size = parse(&["--ring-size", text])?.ring_size;
        assert_eq!((size.bytes(), size.to_string().as_str()), (bytes, shown), "{text}");
    }
    for text in ["", "K", "+64K", "-64K", "4MiB", "4 M", "4.5M", "99999999999", "8G", "M4", "64ⓚ"] {
        let message = refusal(&[&format!("--ring-size={text}")]);
        assert!(
            message.contains("not a size") || message.contains("a value is required"),
            "{text}: {message}"
        );
    }
    Ok(())
}

#[test]
fn durations_are_read_with_and_without_a_unit() -> Result<(), clap::Error> {
    for (text, milliseconds) in [
        ("30", 30_000),
        ("1.5", 1_500),
        (".5", 500),
        ("10s", 10_000),
        ("5m", 300_000),
        ("0.5m", 30_000),
        ("2h", 7_200_000),
    ] {
        let duration = parse(&["--duration", text])?.duration;
        assert_eq!(duration, Some(Duration::from_millis(milliseconds)), "{text}");
    }
    for text in ["s", ".", "1e3", "inf", "NaN", "-1", "10ms", "1 s", "1.2.3", "ten", "5µ"] {
        let message = refusal(&[&format!("--duration={text}")]);
        assert!(message.contains("not a duration"), "{text}: {message}");
    }
    Ok(())
}

#[test]
fn listen_takes_both_ip_versions_or_none() -> Result<(), clap::Error> {
    for text in ["127.0.0.1:9899", "0.0.0.0:80", "[::1]:9899", "[fe80::1%3]:1", "none"] {
        assert_eq!(parse(&["--listen", text])?.listen.to_string(), text);
    }
    assert_eq!(parse(&["--listen", "none"])?.listen, Listen::Off);
    Ok(())
}

#[test]
fn netns_is_all_self_or_a_name() -> Result<(), clap::Error> {
    for (text, netns) in [
        ("all", NetnsOption::All),
        ("self", NetnsOption::Own),
        ("blue", NetnsOption::Named("blue".to_owned())),
    ] {
        assert_eq!(parse(&["--netns", text])?.netns, netns);
    }
    Ok(())
}

#[test]
fn no_color_counts_only_for_auto_and_only_when_not_empty() {
    let (unset, empty, set) = (None, Some(OsStr::new("")), Some(OsStr::new("1")));
    for (mode, terminal, no_color, colors) in [
        (ColorMode::Auto, true, unset, true),
        (ColorMode::Auto, true, empty, true),
        (ColorMode::Auto, true, set, false),
        (ColorMode::Auto, false, unset, false),
        (ColorMode::Always, false, set, true),
        (ColorMode::Never, true, unset, false),
    ] {
        assert_eq!(mode.colors(terminal, no_color), colors, "{mode:?} {terminal} {no_color:?}");
    }
}

#[test]
fn help_and_version_are_no_errors() {
    for (flag, kind) in [
        ("-h", ErrorKind::DisplayHelp),
        ("--help", ErrorKind::DisplayHelp),
        ("-V", ErrorKind::DisplayVersion),
        ("--version", ErrorKind::DisplayVersion),
    ] {
        let shown = parse(&[flag]).map_err(|error| (error.kind(), error.exit_code())).err();
        assert_eq!(shown, Some((kind, 0)), "{flag}");
    }
}

#[test]
fn the_manual_covers_every_visible_flag_and_every_exit_code() {
    let manual = Cli::command().render_long_help().to_string();
    for flag in Cli::command().get_arguments() {
        let name = flag.get_long().unwrap_or_default();
        assert_eq!(manual.contains(&format!("--{name}")), !flag.is_hide_set(), "{name}");
    }
    for section in ["What is printed:", "Metrics:", "Privileges:", "Exit codes:", "Environment:", "Examples:"]
    {
        assert!(manual.contains(section), "{section}");
    }
}

#[test]
fn every_example_of_the_manual_is_a_valid_command_line() {
    let manual = Cli::command().render_long_help().to_string();
    let mut examples = 0;
    for line in manual.lines().filter_map(|line| line.trim().strip_prefix("sudo tcp-monitor ")) {
        let arguments: Vec<_> = line.split('|').next().unwrap_or_default().split_whitespace().collect();
        assert_eq!(refusal(&arguments), "", "{line}");
        examples += 1;
    }
    assert!(examples >= 5, "{examples} examples found");
}
