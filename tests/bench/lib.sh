# shellcheck shell=bash
# shellcheck disable=SC2034 # used by those who source it
# Shared by run.sh, instructions.sh and memory.sh: the same backend, the same certificate and the
# same conditions for rproxy, nginx and HAProxy. Sourced, never run.
#
# Equal conditions, and why:
#   one event loop each         worker_processes 1, nbthread 1: CPU time per request is compared
#   keep-alive to the backend   in all three; without it the kernel's connect would be measured
#   one access line a request   in all three, written to /dev/null
#   the same forwarding fields  X-Forwarded-For, -Proto, -Host, X-Real-IP
#   TLS 1.2, P-256, AES128-GCM  what rproxy offers; session cache, no tickets
#   nginx spools nothing        proxy_max_temp_file_size 0: disk writes would be charged to nginx
# Everything listens on 127.0.0.1 alone and is ended by its process id.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
here=$root/tests/bench
work=$root/build/bench
RPROXY=${RPROXY:-$root/build/rproxy}
PROXIES=${BENCH_PROXIES:-rproxy nginx haproxy}
python=/usr/bin/python3 # Debian's: another one in PATH may lack modules
PATH=$PATH:/usr/sbin:/sbin # nginx and haproxy live there

# Proxy on one core, generator and backend on the other; one core only: all share it.
cores=$(nproc)
proxy_core=$((cores > 1 ? 1 : 0))
proxy_cpu=(taskset -c "$proxy_core")
load_cpu=(taskset -c 0)

die() { echo "bench: $*" >&2; exit 1; }

need() { # COMMAND PACKAGE
	command -v "$1" >/dev/null || die "$1 is missing: apt-get install -y $2"
}

prepare() {
	local p
	need nginx nginx-light; need openssl openssl; need curl curl; need taskset util-linux
	for p in $PROXIES; do
		case $p in
		rproxy) [[ -x $RPROXY ]] || die "$RPROXY is missing: run 'make' first, or name a binary" \
			"with RPROXY=FILE, or leave it out: BENCH_PROXIES='nginx haproxy'" ;;
		nginx) ;;
		haproxy) need haproxy haproxy ;;
		*) die "unknown proxy '$p' in BENCH_PROXIES: rproxy, nginx, haproxy" ;;
		esac
	done
	mkdir -p "$work/www"
	read -r backend_port http_port https_port < <(free_ports 3)
	make_certificate
	head -c 128 /dev/zero | tr '\0' x >"$work/www/small"
	truncate -s "${BIG_MB:-512}M" "$work/www/big" # a hole: the backend's disk is not measured
	start_backend
}

free_ports() {
	$python - "$1" <<-'PY'
	import socket, sys
	held = [socket.create_server(("127.0.0.1", 0)) for _ in range(int(sys.argv[1]))]
	print(*(s.getsockname()[1] for s in held))
	PY
}

# The name is localhost, because wrk looks it up and sends it as SNI.
make_certificate() {
	openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost \
		-addext subjectAltName=DNS:localhost -keyout "$work/key.pem" -out "$work/cert.pem" 2>/dev/null ||
		die "openssl could not make a certificate"
	cat "$work/cert.pem" "$work/key.pem" >"$work/both.pem" # HAProxy wants one file
}

# Process ids to end, whatever happens: whoever starts a process appends it.
started=()
stop_all() {
	local pid
	for pid in "${started[@]}"; do kill "$pid" 2>/dev/null; done
	for pid in "${started[@]}"; do wait "$pid" 2>/dev/null; done
	started=()
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

nginx_common() { # NAME
	cat <<-CONF
	user root; # the checkout may be readable by its owner only
	worker_processes 1;
	worker_rlimit_nofile 8192;
	pid $work/$1.pid;
	error_log $work/$1.err;
	events { worker_connections 4096; }
	CONF
}

start_backend() {
	{
		nginx_common backend
		cat <<-CONF
		http {
			access_log off;
			sendfile on;
			keepalive_timeout 120s;
			keepalive_requests 100000000;
			open_file_cache max=10;
			server { listen 127.0.0.1:$backend_port; root $work/www; }
		}
		CONF
	} >"$work/backend.conf"
	"${load_cpu[@]}" nginx -p "$work" -e "$work/backend.err" -c "$work/backend.conf" \
		-g 'daemon off;' 2>>"$work/backend.err" &
	started+=($!)
	wait_for_port "$backend_port" $! || die "the backend did not start: see $work/backend.err"
}

conf_nginx() { # EXTRA: more lines for the main context
	nginx_common nginx
	cat <<-CONF
	$1
	http {
		access_log /dev/null combined;
		keepalive_timeout 120s;
		keepalive_requests 100000000;
		proxy_max_temp_file_size 0;
		upstream backend {
			server 127.0.0.1:$backend_port;
			keepalive 32;
			keepalive_requests 100000000;
		}
		server {
			server_name localhost;
			listen 127.0.0.1:$http_port;
			listen 127.0.0.1:$https_port ssl;
			ssl_certificate $work/cert.pem;
			ssl_certificate_key $work/key.pem;
			ssl_protocols TLSv1.2;
			ssl_ciphers ECDHE-ECDSA-AES128-GCM-SHA256;
			ssl_session_cache shared:s:1m;
			ssl_session_tickets off;
			location / {
				proxy_pass http://backend;
				proxy_http_version 1.1;
				proxy_set_header Connection "";
				proxy_set_header Host \$http_host;
				proxy_set_header X-Real-IP \$remote_addr;
				proxy_set_header X-Forwarded-For \$remote_addr;
				proxy_set_header X-Forwarded-Proto \$scheme;
				proxy_set_header X-Forwarded-Host \$http_host;
			}
		}
	}
	CONF
}

conf_haproxy() {
	cat <<-CONF
	global
		nbthread 1
		maxconn 4000
		log stdout format raw local0
		tune.ssl.cachesize 2000
		ssl-default-bind-options ssl-min-ver TLSv1.2 ssl-max-ver TLSv1.2 no-tls-tickets
		ssl-default-bind-ciphers ECDHE-ECDSA-AES128-GCM-SHA256
	defaults
		mode http
		log global
		option httplog
		timeout connect 5s
		timeout client 120s
		timeout server 120s
		timeout http-keep-alive 120s
		http-reuse always
	frontend front
		bind 127.0.0.1:$http_port
		bind 127.0.0.1:$https_port ssl crt $work/both.pem
		acl ours hdr(host),host_only localhost
		http-request deny deny_status 404 unless ours
		http-request set-header X-Forwarded-For %[src]
		http-request set-header X-Real-IP %[src]
		http-request set-header X-Forwarded-Host %[req.hdr(host)]
		http-request set-header X-Forwarded-Proto %[ssl_fc,iif(https,http)]
		default_backend back
	backend back
		server b 127.0.0.1:$backend_port
	CONF
}

conf_rproxy() { # MAX_CONNS
	cat <<-CONF
	http 127.0.0.1:$http_port
	https 127.0.0.1:$https_port
	cert $work/cert.pem,$work/key.pem
	default-cert localhost # openssl s_time sends no SNI
	log /dev/null
	max-conns $1
	max-conns-per-ip 0
	idle-timeout 120s
	route localhost=http://127.0.0.1:$backend_port plain
	CONF
}

# start NAME [WRAPPER...]: starts that proxy, sets $proxy to its process id.
start() {
	local name=$1
	shift
	case $name in
	rproxy)
		conf_rproxy "${RPROXY_CONNS:-512}" >"$work/rproxy.conf"
		"$@" "$RPROXY" -c "$work/rproxy.conf" >"$work/rproxy.err" 2>&1 & ;;
	nginx)
		conf_nginx "${NGINX_EXTRA:-}" >"$work/nginx.conf"
		"$@" nginx -p "$work" -e "$work/nginx.err" -c "$work/nginx.conf" \
			-g 'daemon off;' >>"$work/nginx.err" 2>&1 & ;;
	haproxy)
		conf_haproxy >"$work/haproxy.conf"
		# stdout is the access log, equal to /dev/null of the others
		"$@" haproxy -db -f "$work/haproxy.conf" >/dev/null 2>"$work/haproxy.err" & ;;
	esac
	proxy=$!
	started+=("$proxy")
	wait_for_port "$http_port" "$proxy" || {
		tail -n 5 "$work/$name.err" >&2
		stop # here too: a subshell has no exit trap
		die "$name did not start: see $work/$name.err"
	}
}

stop() { # ends the proxy that start began
	local pid left=()
	kill "$proxy" 2>/dev/null
	wait "$proxy" 2>/dev/null
	for pid in "${started[@]}"; do [[ $pid == "$proxy" ]] || left+=("$pid"); done
	started=("${left[@]}")
	proxy=
}

# The process and all its descendants: nginx has a worker, rproxy a resolver.
tree() { # PID
	local child
	echo "$1"
	for child in $(cat "/proc/$1/task/$1/children" 2>/dev/null); do tree "$child"; done
}

# User and system CPU time of the tree in clock ticks, ended children included.
cpu_ticks() { # PID
	local pid line sum=0 f
	for pid in $(tree "$1"); do
		line=$(cat "/proc/$pid/stat" 2>/dev/null) || continue
		read -r -a f <<<"${line##*) }" # fields after the command name: f[11] is utime
		sum=$((sum + f[11] + f[12] + f[13] + f[14]))
	done
	echo "$sum"
}

memory_kb() { # PID FIELDS(names in smaps_rollup, joined by |): of the tree, in KB
	local pid sum=0 kb
	for pid in $(tree "$1"); do
		kb=$(awk -v f="^($2):" '$1 ~ f { s += $2 } END { print s }' "/proc/$pid/smaps_rollup" 2>/dev/null)
		sum=$((sum + ${kb:-0}))
	done
	echo "$sum"
}
