#!/usr/bin/env bash
# CPU time per request of rproxy, nginx and HAProxy, side by side in one run.
#
#   tests/bench/run.sh                 about three minutes
#   BENCH_SECONDS=1 BENCH_ROUNDS=1     a quick look
#   BENCH_PROXIES='nginx haproxy'      leave some out
#
# What is counted is user + system CPU time of the proxy's processes (/proc/PID/stat), divided by
# the requests that wrk counted in that time: it hardly depends on how fast the generator is, so
# it holds on a busy machine where requests per second would not. Rounds are interleaved and the
# median is shown. lib.sh says what is equal for all three.
set -u
BIG_MB=${BIG_MB:-512}
. "$(dirname "$0")/lib.sh"
seconds=${BENCH_SECONDS:-3}
rounds=${BENCH_ROUNDS:-3}
need wrk wrk
prepare

# load SCENARIO: applies the load; sets $units (requests, or MB) or fails.
load() {
	local url header=() out
	case $1 in
	http-*) url=http://localhost:$http_port ;;
	https-*) url=https://localhost:$https_port ;;
	esac
	case $1 in
	*-download)
		# two files on one connection, so that the handshake weighs nothing
		out=$("${load_cpu[@]}" curl -4 -sS -k --max-time 120 -o /dev/null -o /dev/null \
			-w '%{http_code} %{size_download}\n' "$url/big" "$url/big" 2>&1) ||
			{ echo "$out" >&2; return 1; }
		units=$(awk '$1 == 200 { s += $2 } END { print int(s / 1000000) }' <<<"$out")
		[[ $units -ge $((2 * BIG_MB)) ]] || { echo "$out" >&2; return 1; }
		return ;;
	https-full)
		# wrk resumes its TLS sessions, s_time -new never does
		out=$("${load_cpu[@]}" openssl s_time -new -tls1_2 -time "$seconds" \
			-connect "127.0.0.1:$https_port" 2>&1)
		units=$(sed -n 's/^\([0-9]*\) connections in .* real seconds.*/\1/p' <<<"$out" | tail -1)
		[[ ${units:-0} -ge 10 ]] || { echo "$out" >&2; return 1; }
		return ;;
	*-new) header=(-H 'Connection: close') ;;
	esac
	out=$("${load_cpu[@]}" wrk -t1 -c16 "-d${seconds}s" "${header[@]}" "$url/small" 2>&1)
	units=$(awk '/ requests in /{ print $1 }' <<<"$out")
	# A proxy that answers errors quickly must not win.
	if [[ -z $units || $units -lt 10 ]] || grep -Eq 'Non-2xx|Socket errors' <<<"$out"; then
		echo "$out" >&2
		return 1
	fi
}

measure() { # SCENARIO PROXY: appends "SCENARIO PROXY TICKS UNITS"
	local before after
	start "$2" "${proxy_cpu[@]}"
	curl -4 -s -o /dev/null "http://localhost:$http_port/small" # first backend connection, caches
	before=$(cpu_ticks "$proxy")
	load "$1" || die "$2 failed in $1"
	after=$(cpu_ticks "$proxy")
	echo "$1 $2 $((after - before)) $units" >>"$work/results"
	stop
}

: >"$work/results"
scenarios='http-keepalive https-keepalive http-new https-new https-full http-download https-download'
echo "bench: $PROXIES; $rounds rounds, ${seconds}s each; proxy on core $proxy_core of $cores"
for ((round = 1; round <= rounds; round++)); do
	for scenario in $scenarios; do
		for name in $PROXIES; do
			printf '\r\033[K  round %d: %s %s' "$round" "$scenario" "$name" >&2
			measure "$scenario" "$name"
		done
	done
done
printf '\r\033[K' >&2
$python "$here/table.py" "$work/results" "$(getconf CLK_TCK)"
