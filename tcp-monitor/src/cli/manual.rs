//! The parts of `--help` that are not about a single flag.

pub(super) const ABOUT: &str = "Monitor of the TCP connection lifecycle: a live log and Prometheus metrics";

pub(super) const LONG_ABOUT: &str = "\
Monitor of the TCP connection lifecycle: a live log and Prometheus metrics.

tcp-monitor shows every TCP handshake and teardown of this host as it happens: the segments with their sequence \
numbers and options, the state transitions of the sockets, resets, retransmissions, and why a connection failed or \
ended. It counts all of it for Prometheus. Its eBPF programs in the kernel skip the data between handshake and \
teardown, so that it can run all the time.

It needs Linux 5.10 or later with BTF (/sys/kernel/btf/vmlinux), and root or the capabilities below.";

pub(super) const AFTER_SHORT_HELP: &str = "\
Examples:
  sudo tcp-monitor --port 8899                 live log of one port
  sudo tcp-monitor --output none               only the metrics, on 127.0.0.1:9899
  sudo tcp-monitor -p 443 -o json -c 100 | jq  100 events as JSON

The manual: tcp-monitor --help";

pub(super) const AFTER_LONG_HELP: &str = "\
What is printed:
  Standard output has the events only, one a line. With --output text, a line
  has the time, the kind of event, the addresses and the details:

    12:00:01.123456  SYN      10.0.0.5:51920 → 10.0.0.9:8899  seq 303234858 …
    12:00:01.123470  SYN-ACK  10.0.0.9:8899 → 10.0.0.5:51920  seq 3214115980 …
    12:00:01.123963  OPEN     10.0.0.9:8899 ← 10.0.0.5:51920
        SYN_RECV → ESTABLISHED  handshake 505 µs

  (=seq+1) after an acknowledgment number shows the sum that it matches. A
  wrong number is followed by ≠ and the right one. On a terminal, a line that
  is too long continues on the next, indented. Where several network
  namespaces are watched, each line ends with the name of its namespace.
  With --view ladder or table, each connection is shown when it is over: as
  a sequence diagram, or as tables of its segments.
  The wording of text may change. Scripts should read --output json: one
  object a line with the fields v (1), time, event (segment, state, handshake,
  reset, retransmit, closed, stuck, lost, skipped), conn (the number of the
  connection) and those of the event; docs/events.md in the source tree
  describes them.
  Standard error has one line on what is monitored, warnings, and a summary
  at the end.

Metrics:
  All begin with tcp_monitor_. By port: handshakes, their failures by reason
  and durations; SYN cookies, accept queues and their overflows, half-open
  connections; resets, state transitions, time in each state, connection
  durations; how connections closed, bytes, retransmissions; sockets by state
  and those left in CLOSE_WAIT. By interface: segments. For the log:
  events_total, events_lost_total, events_suppressed_total. The answer to a
  scrape describes each in a line that begins with # HELP.
  Counters are counted in the kernel: a slow terminal, a stopped agent or a
  full ring buffer changes none of them. Only timeouts of half-open
  connections and the ends of TIME_WAIT are found by the agent, once it
  continues. Sockets by state are what the kernel lists at the scrape.

Privileges:
  root, or these capabilities:
    CAP_BPF, CAP_PERFMON  load the kernel programs and read socket fields
    CAP_NET_ADMIN         watch segments on interfaces
    CAP_SYS_ADMIN         interfaces of other network namespaces; --bpf-stats
    CAP_SYS_PTRACE        finding the namespaces of other users' processes
    CAP_SYS_RESOURCE      locked memory, on kernels before 5.11
  A message names each one that is missing and what does not work without it.

Exit codes:
  0  done, or stopped by Ctrl-C or SIGTERM
  1  failed; the message says what and why
  2  the command line is wrong
  3  a privilege is missing
  4  the kernel is not supported

Environment:
  NO_COLOR  if set and not empty, text is not coloured (see --color)
  COLUMNS   the width of a ladder without a terminal
  LC_ALL, LC_CTYPE, LANG
            the first that is set: C or POSIX means plain ASCII (see --ascii)
  TZ        the time zone of text [default: that of the system]
  RUST_LOG  the level of messages of tcp-monitor itself on standard error:
            error, warn, info, debug or trace [default: warn]

Examples:
  Live log of one port:
    sudo tcp-monitor --port 8899
  Each connection of a port as a sequence diagram:
    sudo tcp-monitor -p 8899 --view ladder
  Some ports, on one interface, for ten seconds:
    sudo tcp-monitor -p 80,443,8000-8100 -i eth0 --duration 10
  Only metrics of everything, for Prometheus on another host:
    sudo tcp-monitor --output none --listen 0.0.0.0:9899
  The connections of a capture, without privilege:
    tcp-monitor read trace.pcap
  Only the log, of the network namespace blue:
    sudo tcp-monitor --netns blue --listen none
  The handshakes and teardowns of one port, live in Wireshark:
    sudo tcp-monitor -p 8899 -o none -w - | wireshark -k -i -
  The resets among the next hundred events, as JSON:
    sudo tcp-monitor -o json -c 100 | jq 'select(.event == \"reset\")'";

pub(super) const AFTER_READ_HELP: &str = "\
Standard output has the events. Standard error has a summary: how many packets
were read, which were skipped and why, and how the connections ended. For a
damaged or truncated file the byte offset is reported; earlier packets and the
other files are processed, and the exit code is 1.

Times are local, as in tcpdump: TZ=UTC tcp-monitor read … shows another time
zone. Each day begins with a line with the date. With --output json, frame is
the packet's number as in Wireshark, counted over all files.

Examples:
  The connections of one port, compressed or not:
    tcp-monitor read --port 8899 trace.pcap.gz
  The files of a ring (tcpdump -C 100 -W 10 -w ring), oldest first:
    tcp-monitor read $(ls -tr ring*)
  While it is captured, on this host or another:
    ssh host tcpdump -U -w - tcp port 8899 | tcp-monitor read -
  Why connections failed, as JSON:
    tcp-monitor read -o json trace.pcapng |
      jq 'select(.event == \"handshake\" and .result != \"completed\")'";
