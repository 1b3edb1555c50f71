//! The parts of `--help` that are about no single flag.

pub(super) const ABOUT: &str = "Monitor of the TCP connection lifecycle: a live log and Prometheus metrics";

pub(super) const LONG_ABOUT: &str = "\
Monitor of the TCP connection lifecycle: a live log and Prometheus metrics.

tcp-monitor shows every TCP handshake and teardown of this host as it happens: the segments with their sequence \
numbers and options, the state transitions of the sockets, resets, retransmissions, and why a connection failed or \
ended. It counts all of it for Prometheus. It runs small eBPF programs in the kernel that pass over the data \
between handshake and teardown, so that it can be left on.

It needs Linux 5.10 or later with BTF (/sys/kernel/btf/vmlinux), and root or the capabilities below.";

pub(super) const AFTER_SHORT_HELP: &str = "\
Examples:
  sudo tcp-monitor --port 8899                 live log of one port
  sudo tcp-monitor --output none               only the metrics, on 127.0.0.1:9899
  sudo tcp-monitor -p 443 -o json -c 100 | jq  100 events as JSON

The manual: tcp-monitor --help";

pub(super) const AFTER_LONG_HELP: &str = "\
What is printed:
  Standard output carries the events and nothing else, one on a line.
  With --output text, for people, a line has the time, what happened, who to
  whom and the details:

    12:00:01.123456  SYN      10.0.0.5:51920 → 10.0.0.9:8899  seq 303234858 …
    12:00:01.123470  SYN-ACK  10.0.0.9:8899 → 10.0.0.5:51920  ack 303234859 …
    12:00:01.123963  OPEN     10.0.0.9:8899 ← 10.0.0.5:51920  SYN_RECV →
                              ESTABLISHED  handshake 505 µs

  After an acknowledgment number, (=seq+1) says what it is the sum of; a
  number that is wrong is followed by ≠ and the right one. With --view ladder
  or table each connection is shown when it is over, as a sequence diagram
  or as tables of its segments.
  Its wording may change; scripts should read --output json: one object a
  line with the fields v (1), time, event (segment, state, handshake, reset,
  retransmit, closed, stuck, lost) and what belongs to that event.
  Standard error carries one line on what is being monitored, warnings, and
  a summary at the end.

Metrics:
  All begin with tcp_monitor_. By port: handshakes, their failures by reason
  and durations; SYN cookies, accept queues and their overflows, half-open
  requests; resets, state transitions and how long states and connections
  last; how connections closed, bytes, retransmissions; sockets by state and
  those left in CLOSE_WAIT. By interface: segments. Of the log: events_total,
  events_lost_total, events_suppressed_total. docs/metrics.md has them all.
  Counters are counted in the kernel: a slow terminal, a stopped agent or a
  full ring buffer changes none of them. Only half-open requests that time
  out and the ends of TIME_WAIT are found by the agent, once it goes on.
  Sockets by state are what the kernel lists when it is asked.

Privileges:
  root, or these capabilities:
    CAP_BPF, CAP_PERFMON  load the kernel programs and read socket fields
    CAP_NET_ADMIN         watch segments on interfaces
    CAP_SYS_ADMIN         interfaces of other network namespaces; --bpf-stats
    CAP_SYS_PTRACE        finding the namespaces of other users' processes
    CAP_SYS_RESOURCE      locked memory, on kernels before 5.11
  A message names each one that is missing and what is lost without it.

Exit codes:
  0  done, or stopped by Ctrl-C or SIGTERM
  1  failed; the message says what and why
  2  the command line is wrong
  3  a privilege is missing
  4  the kernel is not supported

Environment:
  NO_COLOR  if set and not empty, text is not coloured (see --color)
  COLUMNS   how wide a ladder is, where there is no terminal
  RUST_LOG  what tcp-monitor says of itself on standard error:
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
  Only the log, of the network namespace named blue:
    sudo tcp-monitor --netns blue --listen none
  The handshakes and teardowns of one port, live in Wireshark:
    sudo tcp-monitor -p 8899 -o none -w - | wireshark -k -i -
  The resets among the next hundred events, as JSON:
    sudo tcp-monitor -o json -c 100 | jq 'select(.event == \"reset\")'";

pub(super) const AFTER_READ_HELP: &str = "\
Standard output carries the events; standard error what was read, what was
left out and why, and how the connections ended. A file that is damaged or
cut off says at which byte; what came before it is told, the other files are
read, and the exit code is 1.

Times are local, as tcpdump has them: TZ=UTC tcp-monitor read … shows another
time zone. A line with the date begins each day.

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
