#!/usr/bin/env bash
# The main job, shown and checked: two sites of different kinds behind one address, TLS ending at
# the proxy. Builds nothing: 'make demo' does that first.
#
#   make demo              runs it and stays until Ctrl-C, so that you can try requests yourself
#   DEMO=once make demo    ends after the proof; exit status 0 only if every check held
#
# Everything listens on 127.0.0.1, lives in build/demo, and is ended by its process id.
set -u
cd "$(dirname "$0")/.." || exit 1
RPROXY=${RPROXY:-build/rproxy}
work=$PWD/build/demo
python=/usr/bin/python3 # Debian's: another one in PATH may lack the websockets module
PATH=$PATH:/usr/sbin:/sbin
jellyfin=jellyfin.test.com
mattermost=mattermost.test.com
asleep=nas.test.com # configured, but nothing listens there
big_mb=64

# ---- output -------------------------------------------------------------------------------------

if [[ -t 1 ]]; then bold=$'\e[1m' dim=$'\e[2m' red=$'\e[31m' green=$'\e[32m' off=$'\e[0m'
else bold='' dim='' red='' green='' off=''; fi
step=0 wrong=0
title() { step=$((step + 1)); printf '\n%s%d. %s%s\n' "$bold" "$step" "$*" "$off"; }
shown() { printf '   %s$ %s%s\n' "$dim" "$*" "$off"; }
answer() { sed 's/\r$//; s/^/   /'; }
die() { echo "demo: $*" >&2; exit 1; }
check() { # WHAT COMMAND...: the command's status decides
	local what=$1
	shift
	if "$@" >/dev/null 2>&1; then
		printf '   %sok%s     %s\n' "$green" "$off" "$what"
	else
		printf '   %swrong%s  %s\n' "$red" "$off" "$what"
		wrong=$((wrong + 1))
	fi
}
has() { grep -Eiq -- "$1" <<<"$2"; }
lacks() { ! has "$1" "$2"; }
same() { [[ -n $1 && $1 == "$2" ]]; }

# ---- start and end ------------------------------------------------------------------------------

pids=()
stop_all() {
	local pid
	trap '' INT TERM
	for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null; done
	for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null; done
}
trap stop_all EXIT
trap 'exit 130' INT TERM

wait_for_port() { # PORT PID
	local i
	for ((i = 0; i < 200; i++)); do
		(exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null && return 0
		kill -0 "$2" 2>/dev/null || return 1
		sleep 0.05
	done
	return 1
}

free_ports() { # PREFERRED...: the preferred ones, or any free ones where they are taken
	$python - "$@" <<-'PY'
	import socket, sys
	held = []
	for port in map(int, sys.argv[1:]):
	    try:
	        held.append(socket.create_server(("127.0.0.1", port)))
	    except OSError:
	        held.append(socket.create_server(("127.0.0.1", 0)))
	print(*(s.getsockname()[1] for s in held))
	PY
}

[[ -x $RPROXY ]] || die "$RPROXY is missing: run 'make' first"
for tool in nginx:nginx-light curl:curl openssl:openssl sha256sum:coreutils; do
	command -v "${tool%:*}" >/dev/null || die "${tool%:*} is missing: apt-get install -y ${tool#*:}"
done
$python -c 'import websockets' 2>/dev/null ||
	die "Python's websockets is missing: apt-get install -y python3-websockets"

rm -rf "$work"
mkdir -p "$work/www" || die "cannot make $work"
read -r http https site chat dead < <(free_ports 8080 8443 8096 8065 8097)

# ---- backend 1: a page and a big file, by nginx -------------------------------------------------

head -c "${big_mb}M" /dev/urandom >"$work/www/film.bin"
cat >"$work/www/index.html" <<-'HTML'
	<!doctype html><meta charset=utf-8><title>films</title>
	<h1>A film library</h1><p><a href=film.bin>film.bin</a></p>
HTML
cat >"$work/nginx.conf" <<-CONF
	user root; # the checkout may be readable by its owner only
	worker_processes 1;
	pid $work/nginx.pid;
	error_log $work/nginx.err;
	events { worker_connections 128; }
	http {
		types { text/html html; }
		access_log off;
		client_body_temp_path $work/tmp;
		server {
			listen 127.0.0.1:$site;
			root $work/www;
			# names itself by its inner address, as many applications do
			location = /old { return 302 http://127.0.0.1:$site/index.html; }
			location = /whoami {
				default_type text/plain;
				return 200 "Host: \$http_host
	X-Forwarded-For: \$http_x_forwarded_for
	X-Forwarded-Proto: \$http_x_forwarded_proto
	X-Forwarded-Host: \$http_x_forwarded_host
	X-Real-IP: \$http_x_real_ip
	";
			}
		}
	}
CONF
nginx -p "$work" -e "$work/nginx.err" -c "$work/nginx.conf" -g 'daemon off;' 2>>"$work/nginx.err" &
pids+=($!)
wait_for_port "$site" $! || die "nginx did not start: see $work/nginx.err"

# ---- backend 2: a WebSocket echo ----------------------------------------------------------------

$python tests/demo_ws.py serve "$chat" 2>"$work/echo.err" &
pids+=($!)
wait_for_port "$chat" $! || die "the WebSocket echo did not start: see $work/echo.err"

# ---- a certificate, from a little authority of our own ------------------------------------------

{
	openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 \
		-subj '/CN=rproxy demo authority' -keyout "$work/ca.key" -out "$work/ca.pem" &&
	openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes \
		-subj "/CN=$jellyfin" -keyout "$work/site.key" -out "$work/site.csr" &&
	openssl x509 -req -in "$work/site.csr" -CA "$work/ca.pem" -CAkey "$work/ca.key" \
		-CAcreateserial -days 2 -out "$work/site.crt" \
		-extfile <(echo "subjectAltName=DNS:$jellyfin,DNS:$mattermost,DNS:$asleep")
} 2>"$work/openssl.err" || die "openssl could not make the certificate: see $work/openssl.err"

# ---- rproxy in front ----------------------------------------------------------------------------

cat >"$work/rproxy.conf" <<-CONF
	http  127.0.0.1:$http
	https 127.0.0.1:$https
	cert  $work/site.crt,$work/site.key
	log   $work/access.log

	route $jellyfin=http://127.0.0.1:$site
	route $mattermost=http://127.0.0.1:$chat
	route $asleep=http://127.0.0.1:$dead
CONF
printf '%srproxy with this configuration%s (%s)\n\n' "$bold" "$off" "build/demo/rproxy.conf"
answer <"$work/rproxy.conf"
"$RPROXY" --check -c "$work/rproxy.conf" || die "rproxy refused its configuration"
# In a session of its own: Ctrl-C is for this script, which then asks rproxy to stop.
setsid "$RPROXY" -c "$work/rproxy.conf" 2>"$work/rproxy.err" &
rproxy=$!
pids+=("$rproxy")
if ! wait_for_port "$http" "$rproxy" || ! wait_for_port "$https" "$rproxy"; then
	cat "$work/rproxy.err" >&2
	die "rproxy did not start"
fi
echo
answer <"$work/rproxy.err"

# curl to the proxy, whatever DNS says of the name; its certificate is checked.
get() { curl -sS --max-time 60 --noproxy '*' --cacert "$work/ca.pem" --connect-to "::127.0.0.1:" "$@"; }

# ---- the proof ----------------------------------------------------------------------------------

title 'Plain HTTP is sent to HTTPS'
shown "curl -i http://$jellyfin:$http/web?a=1"
out=$(get -i "http://$jellyfin:$http/web?a=1" 2>&1)
head -n 1 <<<"$out" | answer
grep -i '^location:' <<<"$out" | answer
check 'status 301' has '^HTTP/1.1 301' "$out"
check 'to the same place over HTTPS' \
	has "^location: https://$jellyfin:$https/web\?a=1"$'\r?$' "$out"

title 'The page, over TLS'
shown "curl https://$jellyfin:$https/"
out=$(get -w 'HTTP %{http_version} %{http_code}, certificate verified: %{ssl_verify_result}\n' \
	"https://$jellyfin:$https/" 2>&1)
answer <<<"$out"
check 'the page as the backend has it' has 'A film library' "$out"
check 'status 200 over a verified certificate' has 'HTTP 1.1 200, certificate verified: 0' "$out"

title 'A piece of the big file: Range'
shown "curl -r 1000000-1000099 https://$jellyfin:$https/film.bin"
out=$(get -D - -o "$work/piece" -r 1000000-1000099 "https://$jellyfin:$https/film.bin" 2>&1)
grep -Ei '^(HTTP|content-range)' <<<"$out" | answer
check 'status 206 and Content-Range' has '^content-range: bytes 1000000-1000099/' "$out"
check 'the very bytes' cmp "$work/piece" \
	<(tail -c +1000001 "$work/www/film.bin" | head -c 100)

title "The whole big file, $big_mb MB, with the same SHA-256 at both ends"
shown "curl https://$jellyfin:$https/film.bin | sha256sum"
there=$(sha256sum <"$work/www/film.bin")
here=$(get "https://$jellyfin:$https/film.bin" | sha256sum)
printf '   backend %s\n   client  %s\n' "${there%% *}" "${here%% *}"
check 'equal' same "$here" "$there"

title 'WebSocket through wss://'
shown "$python tests/demo_ws.py talk $mattermost $https build/demo/ca.pem 100"
out=$($python tests/demo_ws.py talk "$mattermost" "$https" "$work/ca.pem" 100 2>&1)
tail -n 3 <<<"$out" | answer
check 'every message came back' has '^100 messages sent, 100 came back' "$out"

title 'What the backend is told of the visitor, who lies about himself'
shown "curl -H 'X-Forwarded-For: 6.6.6.6' https://$jellyfin:$https/whoami"
out=$(get -H 'X-Forwarded-For: 6.6.6.6' -H 'X-Real-IP: 6.6.6.6' \
	"https://$jellyfin:$https/whoami" 2>&1)
answer <<<"$out"
check "the visitor's own address" has '^X-Forwarded-For: 127\.0\.0\.1$' "$out"
check 'that he came by https' has '^X-Forwarded-Proto: https$' "$out"
check 'the host he asked for' has "^X-Forwarded-Host: $jellyfin" "$out"
check 'nothing of the lie' lacks '6\.6\.6\.6' "$out"

title 'Inner addresses do not show'
echo "   (the backend says: Location: http://127.0.0.1:$site/index.html)"
shown "curl -i https://$jellyfin:$https/old"
out=$(get -D - -o /dev/null "https://$jellyfin:$https/old" 2>&1)
grep -Ei '^(HTTP|location)' <<<"$out" | answer
check 'the redirect names the public address' \
	has "^location: https://$jellyfin:$https/index.html"$'\r?$' "$out"
echo '   (nothing listens where this host should be served)'
shown "curl -i https://$asleep:$https/"
out=$(get -i "https://$asleep:$https/" 2>&1)
head -n 1 <<<"$out" | answer
check 'status 502 with Retry-After' has '^HTTP/1.1 502.*retry-after' "$(tr -d '\r\n' <<<"$out")"
check 'no address and no port in head or page' lacks "127\.0\.0\.1|$dead" "$out"

title 'Hosts that are not ours'
shown "curl -i http://nobody.test.com:$http/"
out=$(get -i "http://nobody.test.com:$http/" 2>&1)
head -n 1 <<<"$out" | answer
check 'status 404' has '^HTTP/1.1 404' "$out"
shown "curl https://nobody.test.com:$https/"
out=$(get "https://nobody.test.com:$https/" 2>&1)
tail -n 1 <<<"$out" | answer
check 'TLS is refused by an alert: no certificate is shown' has 'unrecognized.name' "$out"

title 'What the log says of it'
shown 'tail -n 4 build/demo/access.log'
tail -n 4 "$work/access.log" | answer
check 'the dead backend has its reason' grep -q 'upstream-refused' "$work/access.log"
check 'the unknown host has its reason' grep -q 'no-route' "$work/access.log"

echo
if [[ $wrong -gt 0 ]]; then
	printf '%s%d checks were wrong%s; see build/demo for what was written\n' "$red" "$wrong" "$off"
else
	printf '%sEvery check held.%s\n' "$green" "$off"
fi

if [[ ${DEMO:-} != once ]]; then
	asked=
	trap 'asked=1; echo' INT TERM
	cat <<-TRY

	${bold}Running until Ctrl-C.${off} Try it:

	   curl --cacert build/demo/ca.pem --connect-to ::127.0.0.1: https://$jellyfin:$https/
	   $python tests/demo_ws.py talk $mattermost $https build/demo/ca.pem 10
	   tail -f build/demo/access.log

	In a browser on this machine: https://$jellyfin:$https/ and https://$mattermost:$https/
	once /etc/hosts has the line '127.0.0.1 $jellyfin $mattermost' (and build/demo/ca.pem is trusted,
	or its warning is accepted).
	TRY
	while [[ -z $asked ]] && kill -0 "$rproxy" 2>/dev/null; do sleep 1; done
	trap 'exit 130' INT TERM
fi

# Asked to stop, it ends with status 0.
kill -TERM "$rproxy" 2>/dev/null
wait "$rproxy"
status=$?
if [[ $status -ne 0 ]]; then
	printf '%srproxy ended with status %d%s\n' "$red" "$status" "$off"
	wrong=$((wrong + 1))
fi
[[ $wrong -eq 0 ]]
