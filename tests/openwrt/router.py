"""A router for the tests of the OpenWrt package: a folder that stands for its file system, the init
script run by busybox ash on the mock in rc.common, and what procd does with the calls that it makes.
The programs that the script may use are those in TOOLS, all from busybox.

In the script absolute paths are changed, so that they lead into the folder, and its user.
"""

import hashlib
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import threading

from harness import BINARY, PATIENCE, ROOT, wait_for

HERE = pathlib.Path(__file__).parent
PACKAGE = ROOT / "configs/openwrt/rproxy/files"
TOOLS = ("basename cat chmod cmp cp grep head md5sum mkdir mv rm sed tr").split()
SIGNALS = {"HUP": 1}
USER = "nobody"  # stands for the user that the package makes: rproxy --check looks it up


class Service:
    """What procd would be told with `ubus call service set`."""

    def __init__(self, name, script):
        self.name, self.script, self.instances, self.triggers = name, script, {}, []


class Router:
    def __init__(self, folder, jail=True):
        self.root, self.said, self.running, self.service = folder, [], {}, None
        self.events = []  # other services told of a changed configuration
        for d in ("etc/config", "etc/init.d", "etc/capabilities", "etc/ssl/acme", "etc/ssl/certs",
                  "sbin", "usr/sbin", "var/run", "bin"):
            (folder / d).mkdir(parents=True)
        for tool in TOOLS:
            (folder / "bin" / tool).symlink_to(shutil.which("busybox"))
        self.program("bin/logger", f'while [ "$1" != -- ]; do [ "$1" != -p ] || p=$2; shift; done; '
                     f'echo "$p $2" >>{folder}/log')
        self.program("bin/netstat", f'cat {folder}/netstat 2>/dev/null')
        self.program("bin/chgrp", f'test "$1" = {USER} && test -e "$2"')
        self.program("usr/sbin/rproxy", f'exec {shlex.join(BINARY)} "$@"')
        if jail:
            self.program("sbin/ujail", "exit 1")
        shutil.copy(PACKAGE / "rproxy.capabilities.json", folder / "etc/capabilities/rproxy.json")
        self.script = folder / "etc/init.d/rproxy"
        self.script.write_text(re.sub(r"(?<![\w.$}*/])/(?=(etc|sbin|usr|var)/)", f"{folder}/",
                                      (PACKAGE / "rproxy.init").read_text())
                               .replace("RUN_AS=rproxy\n", f"RUN_AS={USER}\n"))
        self.conf = folder / "var/run/rproxy/rproxy.conf"
        self.tls = folder / "var/run/rproxy/tls"

    def program(self, path, text):
        (self.root / path).write_text(f"#!/bin/sh\n{text}\n")
        (self.root / path).chmod(0o755)

    def bare(self, text):
        """Text as it would be on a router."""
        return text.replace(str(self.root), "").replace(USER, "rproxy")

    def uci(self, text):
        """Writes the configuration; files that it names under /etc are those of the folder."""
        (self.root / "etc/config/rproxy").write_text(text.replace("'/etc/", f"'{self.root}/etc/"))

    def acme(self, name, cert=None):
        """Puts a certificate where the acme package does; None takes it away."""
        for end, file in (("fullchain.crt", cert and cert.chain), ("key", cert and cert.key)):
            path = self.root / f"etc/ssl/acme/{name}.{end}"
            path.write_bytes(pathlib.Path(file).read_bytes()) if file else path.unlink()

    def log(self):
        """What the script has said since the last call: (priority, text)."""
        path = self.root / "log"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return [tuple(self.bare(s).split(" ", 1)) for s in lines]

    def do(self, action):
        """Runs the script, then does what it asked procd for."""
        calls = self.root / "calls"
        calls.unlink(missing_ok=True)
        done = subprocess.run(
            [shutil.which("busybox"), "ash", HERE / "rc.common", self.script, action],
            env={"PATH": str(self.root / "bin"), "MOCK_ROOT": str(self.root),
                 "MOCK_CALLS": str(calls)},
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=6 * PATIENCE)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), done
        assert not (self.root / "var/run/rproxy/new").exists()
        for line in calls.read_text().splitlines():
            self.call(*line.split("\t")[:-1])

    # -- procd.sh

    def call(self, what, *args):
        args = list(args)
        at = self.at[-1] if getattr(self, "at", None) else None
        if what == "open":
            self.coming, self.at = Service(args[0], self.bare(args[1])), []
        elif what == "procd_open_instance":
            self.at.append({})
            name = args[0] if args else f"instance{len(self.coming.instances) + 1}"
            self.coming.instances[name] = self.at[-1]
        elif what in ("procd_close_instance", "procd_close_data", "json_close_object",
                      "json_close_array"):
            if what == "procd_close_instance" and at.get("respawn") == []:
                at["respawn"] = ["3600", "5", "5"]
            self.at.pop()
        elif what in ("procd_set_param", "procd_append_param"):
            kind = args.pop(0)
            if kind in ("command", "file", "respawn"):
                at[kind] = (at.get(kind, []) if "append" in what else []) + args
            elif kind == "reload_signal":
                at[kind] = SIGNALS[args[0]]
            elif kind == "term_timeout":
                at[kind] = int(args[0])
            elif kind in ("stdout", "stderr", "no_new_privs"):
                at[kind] = args[0] == "1"
            else:
                assert kind in ("pidfile", "user", "group", "capabilities"), kind
                at[kind] = args[0]
        elif what == "procd_add_jail":
            at["jail"] = {"name": args[0], **{flag: True for flag in args[1:]}, "mount": {}}
        elif what in ("procd_add_jail_mount", "procd_add_jail_mount_rw"):
            for path in args:
                at["jail"]["mount"][path] = "1" if what.endswith("rw") else "0"
        elif what == "procd_open_data":
            self.at.append(at.setdefault("data", {}))
        elif what in ("json_add_object", "json_add_array"):
            self.add(at, args[0], {} if what.endswith("object") else [])
            self.at.append(list(at.values())[-1] if isinstance(at, dict) else at[-1])
        elif what.startswith("json_add_"):
            self.add(at, *args)
        elif what == "procd_add_reload_trigger":
            for package in args:
                self.coming.triggers.append(("config.change", package, 1000, "reload"))
        elif what == "procd_add_raw_trigger":
            assert self.bare(args[2]) == self.coming.script
            self.coming.triggers.append((args[0], None, int(args[1]), args[3]))
        elif what == "set":
            self.set(self.coming)
        elif what == "delete":
            self.set(Service(args[0], None))
        elif what == "procd_set_config_changed":
            self.events.append(args[0])
        else:
            assert what == "triggers", what

    @staticmethod
    def add(at, name, value):
        at.append(value) if isinstance(at, list) else at.__setitem__(name, value)

    # -- procd

    def set(self, service):
        """As procd's instance_update: a running instance whose files changed gets reload_signal
        and never new arguments; one that is no longer named is stopped."""
        self.service = service
        for name in [n for n in self.running if n not in service.instances]:
            self.running.pop(name).stop()
        for name, instance in service.instances.items():
            seen = [(f, hashlib.md5(pathlib.Path(f).read_bytes()).digest())
                    for f in instance["file"]]
            old = self.running.get(name)
            if old and old.poll() is None:
                if (old.seen, old.args) != (seen, instance["command"]):
                    old.send_signal(instance["reload_signal"])
                old.seen = seen
            else:
                self.running[name] = Running(instance["command"], seen)

    @property
    def process(self):
        (process,) = self.running.values()
        return process

    def instance(self):
        """The one instance, as it would look on a router."""
        (instance,) = self.service.instances.values()

        def strip(v):
            if isinstance(v, dict):
                return {strip(k): strip(x) for k, x in v.items()}
            if isinstance(v, list):
                return [strip(x) for x in v]
            return self.bare(v) if isinstance(v, str) else v
        return strip(instance)

    def fire(self, event, package=None):
        """An event of ubus, without its delay. Whether anybody listened."""
        for name, wanted, _, action in self.service.triggers:
            if name == event and wanted in (None, package):
                self.do(action)
                return True
        return False

    def close(self):
        for process in self.running.values():
            process.stop()


class Running(subprocess.Popen):
    """rproxy as procd runs it, its standard error collected."""

    def __init__(self, command, seen):
        super().__init__(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                         stderr=subprocess.PIPE, text=True)
        self.seen, self.lines = seen, []
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()
        wait_for(lambda: "rproxy: ready" in self.lines or self.poll() is not None, "rproxy: ready")

    def read(self):
        for line in self.stderr:
            self.lines.append(line.rstrip("\n"))

    def said(self, regex, times=1):
        """The line that says it for the n-th time, waited for."""
        def found():
            lines = [s for s in self.lines if re.search(regex, s)]
            return lines[times - 1] if len(lines) >= times else None
        return wait_for(found, f"{regex!r} in {self.lines}")

    def stop(self):
        if self.poll() is None:
            self.send_signal(signal.SIGTERM)
            assert self.wait(PATIENCE) == 0, self.lines
        self.reader.join(PATIENCE)
        self.stderr.close()
