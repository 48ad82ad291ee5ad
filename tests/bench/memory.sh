#!/usr/bin/env bash
# Resident memory of rproxy, nginx and HAProxy: at rest, and with 1,000 idle kept-alive connections
# over HTTP and over TLS, each after one request. All processes of a proxy are added up.
#
# RSS counts pages shared with other programs whole, PSS divides them. What each connection costs is
# the growth of PSS without file pages, against the same process before its first connection: file
# pages (libraries) would change with whatever else runs on the machine.
#
#   CONNECTIONS=1000
set -u
export BIG_MB=1
. "$(dirname "$0")/lib.sh"
count=${CONNECTIONS:-1000}
ulimit -n 8192 2>/dev/null || ulimit -n "$(ulimit -Hn)"
[[ $(ulimit -n) -ge $((2 * count + 200)) ]] ||
	die "only $(ulimit -n) descriptors: lower CONNECTIONS"
prepare

at_rest() { # PROXY: as a user would run it, before the first request
	RPROXY_CONNS=512
	start "$1" "${proxy_cpu[@]}"
	sleep 0.5
	printf '%-9s %9d %9d' "$1" "$(memory_kb "$proxy" Rss)" "$(memory_kb "$proxy" Pss)"
	stop
}

with_idle() { # PROXY PORT TLS: prints the PSS with the connections, and bytes for each
	local before after total word client
	RPROXY_CONNS=$((count + 20)) # its memory is sized at start
	start "$1" "${proxy_cpu[@]}"
	sleep 0.5
	before=$(memory_kb "$proxy" 'Pss_Anon|Pss_Shmem')
	coproc CLIENT { exec "${load_cpu[@]}" $python "$here/clients.py" idle "$2" "$count" "$3"; }
	client=$CLIENT_PID
	started+=("$client")
	read -r -t 120 word <&"${CLIENT[0]}" || word=
	[[ $word == ready ]] || die "$1: the clients could not connect"
	sleep 1 # let buffers be given back
	after=$(memory_kb "$proxy" 'Pss_Anon|Pss_Shmem')
	total=$(memory_kb "$proxy" Pss)
	# shellcheck disable=SC1083,SC2093
	exec {CLIENT[1]}>&- # end of its input: one more request on each
	read -r -t 60 word <&"${CLIENT[0]}" || word=
	[[ $word == alive ]] || die "$1: an idle connection no longer answers"
	wait "$client" 2>/dev/null
	stop
	printf ' %9d %7d' "$total" $(((after - before) * 1024 / count))
}

echo "KB; 'each' is bytes per connection; $count connections"
printf '%-9s %9s %9s %9s %7s %9s %7s\n' proxy 'rest RSS' 'rest PSS' 'HTTP PSS' each 'TLS PSS' each
for name in $PROXIES; do
	at_rest "$name"
	with_idle "$name" "$http_port" 0
	with_idle "$name" "$https_port" 1
	echo
done
