#!/usr/bin/env bash
# User instructions for one kept-alive GET through the proxy, by callgrind.
#
# Two runs, of 1,100 and of 100 requests on one connection: start, the connection and the end are
# the same in both, so the difference divided by 1,000 is one request. Exact and repeatable, unlike
# time. The system's side is not in it: run.sh shows that.
#
#   BIN=FILE        the binary to measure, best built like the release but with symbols
#                   (default: RPROXY, else build/rproxy); valgrind may refuse a static-pie one
#   LIMIT=12000     fail when rproxy needs more
set -u
export BIG_MB=1
RPROXY=${BIN:-${RPROXY:-}}
[[ -n $RPROXY ]] || unset RPROXY
. "$(dirname "$0")/lib.sh"
need valgrind valgrind
prepare
# One process each, so that callgrind counts the one that works.
NGINX_EXTRA='master_process off;'

instructions() { # PROXY REQUESTS: prints the total of the serving process
	rm -f "$work"/callgrind.*
	start "$1" valgrind --quiet --tool=callgrind "--callgrind-out-file=$work/callgrind.%p"
	# two warm-up requests open the backend connection
	"${load_cpu[@]}" $python "$here/clients.py" serial "$http_port" "$2" ||
		{ stop; die "$1: requests failed"; }
	stop
	# Helper processes write a file of their own; the one that worked hardest is meant.
	sed -n 's/^\(summary\|totals\): *//p' "$work"/callgrind.* | sort -n | tail -1
}

status=0
printf '%-10s %s\n' proxy 'user instructions per kept-alive GET'
for name in $PROXIES; do
	few=$(instructions "$name" 100) || exit 1
	many=$(instructions "$name" 1100) || exit 1
	[[ -n $few && -n $many ]] || die "$name: callgrind wrote no total: see $work/$name.err"
	each=$(((many - few) / 1000))
	printf '%-10s %d\n' "$name" "$each"
	if [[ $name == rproxy && -n ${LIMIT:-} && $each -gt $LIMIT ]]; then
		echo "bench: rproxy needs $each instructions, more than $LIMIT" >&2
		status=1
	fi
done
exit $status
