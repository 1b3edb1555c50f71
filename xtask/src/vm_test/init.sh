#!/bin/busybox sh
# Process 1 of a machine of `cargo xtask vm-test`: runs the agent while connections are made, and
# reports on the second serial port, in sections.
/bin/busybox --install -s /bin
export PATH=/bin
mount -t devtmpfs devtmpfs /dev
mount -t proc proc /proc
mount -t sysfs sysfs /sys
stty -F /dev/ttyS1 raw
exec </dev/null >/dev/ttyS1 2>&1

depmod
ip link set lo up

start_agent() {
    # The output of an earlier agent must not be read as that of this one.
    : >/agent
    tcp-monitor --output json --listen 127.0.0.1:9899 "$@" >/events 2>/agent &
    agent=$!
    until grep -q '^attached:' /agent || ! kill -0 $agent; do usleep 100000; done
}

# Without TCX, an agent that is killed leaves its classifiers behind. The next one must remove them.
start_agent --kernel-log --bpf-stats
kill -KILL $agent
wait $agent
echo '== killed agent'
cat /agent
start_agent --port 8899
echo '== traffic'
xtask vm-traffic 127.0.0.1:8899
echo '== metrics'
# After a dump of the sockets, which takes long on a slow machine, there is none for a while.
tries=0
until wget -q -O /metrics http://127.0.0.1:9899/metrics && grep -q '_connections{.*"time_wait"} 1' /metrics ||
    [ $tries -ge 30 ]; do
    tries=$((tries + 1))
    sleep 1
done
cat /metrics
kill -INT $agent
wait $agent
code=$?
echo '== exit code'
echo $code
echo '== modules after'
cut -d ' ' -f 1,3 /proc/modules
echo '== agent'
cat /agent
echo '== events'
cat /events
echo '== end'
sync
poweroff -f
