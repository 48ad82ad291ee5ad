"""`make lint`: what STYLE.md and ARCHITECTURE.md promise and a machine can see.

    tests/lint.py BEARSSL_INC BINARY        run in the top directory

Prints one line for each finding, `file:line: what is wrong`, and last `N passed, N failed`, where
each of the checks below counts once. A check whose tool is missing fails and says so.
"""

import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

INCLUDE, BINARY = (sys.argv[1:] + ["build/bearssl/inc", "build/rproxy"])[:2]
SOURCE, HEADER = pathlib.Path("rproxy.c"), pathlib.Path("rproxy.h")
TESTS = sorted(pathlib.Path("tests").glob("*.[ch]"))

WARNINGS = """-Wall -Wextra -Wpedantic -Wshadow -Wundef -Wconversion -Wstrict-prototypes
    -Wmissing-prototypes -Wvla -Wformat=2 -Wswitch-enum -Wcast-qual -Wpointer-arith
    -Werror""".split()
DOORS_OUT = {"rp_open", "rp_step", "rp_reload", "rp_drain", "rp_close", "main"}
LINES_MAX = 100  # of a function, braces included

# cppcheck's remarks that are not findings here, each with its reason.
SUPPRESS = [
    "missingIncludeSystem",  # it needs no system headers
    "normalCheckLevelMaxBranches",  # says that it was quick, which is wanted
    "unmatchedSuppression",  # versions differ in what they say at all
]

# Every option of the contract.
OPTIONS = """config check dump-config help version http https public-port status route default cert
    cert-dir acme-dir trust accept-proxy default-cert session-cache user chroot log log-format
    pid-file max-conns max-conns-per-ip head-timeout idle-timeout connect-timeout response-timeout
    stall-timeout tunnel-timeout drain-timeout head-max body-max""".split()


def run(*command):
    """Output and status of a command; a missing one is status 127."""
    if not shutil.which(command[0]):
        return f"{command[0]}: not installed", 127
    p = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                       encoding="utf-8", errors="replace", stdin=subprocess.DEVNULL)
    return p.stdout, p.returncode


def findings(output, status, wanted=r"^\S+:\d+:.*(error|warning)"):
    """The lines of a tool's output that are findings; all of it when it failed without one."""
    lines = output.splitlines() if status else []
    return [line for line in lines if re.search(wanted, line)] or lines


# ---- the source, taken apart -------------------------------------------------------------------

def blank(text):
    """The text with comments, strings and character constants blanked out, lines kept."""
    token = re.compile(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.S)
    return token.sub(lambda m: re.sub(r"[^\n]", " ", m[0]), text)


def blank_macros(code):
    """The same without preprocessor lines and attributes, so that functions are easy to see."""
    macro = re.compile(r"^[ \t]*#(?:[^\\\n]|\\\n|\\.)*|__attribute__\s*\(\(.*?\)\)+"
                       r"|\b[A-Z][A-Z0-9_]+\([^()\n]*\)", re.M)
    return macro.sub(lambda m: re.sub(r"[^\n]", " ", m[0]), code)


def line_of(text, offset):
    return text.count("\n", 0, offset) + 1


class Function:
    """A function: its name, first and last line, and the room that it stands in."""

    def __init__(self, name, static, first, last, room):
        self.name, self.static, self.first, self.last, self.room = name, static, first, last, room


class Source:
    BANNER = re.compile(r"^/\* ==\[ (\w+) \]=+(?: prefix: (\w+_))?.*?\*/", re.M | re.S)
    HEAD = re.compile(r"^ *(?!typedef|struct \w+\s*\{|enum|union)[a-z_]\w*[\w \t\n*]*?\b(\w+)"
                      r"\(([^;{}=]*)\)\s*([{;])", re.M)

    def __init__(self):
        self.text = SOURCE.read_text() if SOURCE.exists() else ""
        self.code = blank(self.text)
        self.bare = blank_macros(self.code)
        self.rooms = [(m[1], m[2], line_of(self.text, m.start()), m[0])
                      for m in self.BANNER.finditer(self.text)]
        self.functions, self.prototypes = [], []
        for m in self.HEAD.finditer(self.bare):
            first, static = line_of(self.bare, m.start()), "static" in m[0].split("(")[0]
            if m[3] == ";":
                self.prototypes.append((m[1], first))
                continue
            end = self.bare.find("\n}", m.end())
            self.functions.append(Function(m[1], static, first, line_of(self.bare, end + 1),
                                           self.room_at(first)))

    def room_at(self, line):
        above = [name for name, _, at, _ in self.rooms if at <= line]
        return above[-1] if above else "FRONT"


def rooms_of_map():
    """Name and prefix of each room, in the order of the room map."""
    return re.findall(r"^ \* ([A-Z]+) +(\w+_) ", HEADER.read_text(), re.M)


# ---- the checks: each returns its findings -------------------------------------------------------

def compiler(*command):
    def check(_):
        # compiled, not only parsed: some warnings come from the optimiser
        output, status = run(*command, "-std=c11", "-O2", "-c", "-o", "/dev/null", *WARNINGS,
                             "-isystem", INCLUDE, str(SOURCE))
        return findings(output, status)
    check.__name__ = f"no warnings: {' '.join(command)}"
    return check


def formatted(_):
    files = [str(f) for f in [SOURCE, HEADER, *TESTS] if f.exists()]
    output, status = run("clang-format-14", "--dry-run", "-Werror", *files)
    return findings(output, status)


def cppcheck(_):
    output, status = run(
        "cppcheck", "--quiet", "--std=c11", "--enable=warning,portability", "--error-exitcode=1",
        "--inline-suppr", "--template={file}:{line}: {severity}: {message} [{id}]",
        "-DRP_DEBUG=0", "-DRP_CRYPT=1", *(f"--suppress={s}" for s in SUPPRESS), str(SOURCE))
    return findings(output, status)


def globals_are_the_doors(_):
    with tempfile.TemporaryDirectory() as folder:
        made = f"{folder}/rproxy.o"
        output, status = run("gcc", "-std=c11", "-w", "-c", "-isystem", INCLUDE, "-o", made,
                             str(SOURCE))
        if status:
            return findings(output, status)
        output, _ = run("nm", "--defined-only", "--extern-only", made)
    names = {line.split()[-1] for line in output.splitlines()}
    return [f"{SOURCE}:1: {n} is global" for n in sorted(names - DOORS_OUT)] + [
        f"{SOURCE}:1: {n} is missing" for n in sorted(DOORS_OUT - names)]


def rooms_in_order(s):
    there = [(name, prefix) for name, prefix, _, _ in s.rooms if name not in ("FRONT", "MAIN")]
    wanted = [r for r in rooms_of_map() if r[0] != "MAIN"]
    found = [f"{SOURCE}:1: room {n} with prefix {p} has no banner" for n, p in wanted
             if (n, p) not in there]
    found += [f"{SOURCE}:{at}: room {n} with prefix {p} is not in the map of {HEADER}"
              for n, p, at, _ in s.rooms if n not in ("FRONT", "MAIN") and (n, p) not in wanted]
    place = {n: i for i, (n, _) in enumerate(wanted)}
    known = [(place[n], n, at) for n, _, at, _ in s.rooms if n in place]
    return found + [f"{SOURCE}:{at}: room {n} stands after {before}, against the map"
                    for (i, before, _), (j, n, at) in zip(known, known[1:]) if j < i]


def doors_hold(s):
    """Who calls into another room goes through a door, and every door leads somewhere."""
    prefix = {name: p for name, p, _, _ in s.rooms if p}
    doors, found = set(), []
    own = {f.name: f for f in s.functions}
    for name, p, at, banner in s.rooms:
        said = re.search(r"\* Door: *(.*?)\s*(?:\n \* \w+:.*)?\*/", banner, re.S)
        words = re.findall(r"\w+", said[1]) if said and p else []
        for word in words:
            full = word if word.startswith(p) else p + word
            doors.add(full)
            if full not in own and not re.search(rf"#\s*define {full}\b", s.code):
                found.append(f"{SOURCE}:{at}: room {name} names a door {word} that is not there")
    lines = s.code.splitlines()
    for f in s.functions:
        if f.room in prefix and not f.name.startswith(prefix[f.room]) and f.name != "main":
            found.append(f"{SOURCE}:{f.first}: {f.name} stands in room {f.room}, "
                         f"whose prefix is {prefix[f.room]}")
    for at, line in enumerate(lines, 1):
        for name in re.findall(r"\b([a-z]\w*_\w+)\b(?!\s*:)", line):
            f = own.get(name)
            if f and f.room in prefix and name not in doors and s.room_at(at) != f.room:
                found.append(f"{SOURCE}:{at}: {name} is no door of room {f.room}, "
                             f"and is used in {s.room_at(at)}")
    return found


def no_prototypes(s):
    return [f"{SOURCE}:{at}: a prototype of {name}" for name, at in s.prototypes]


def functions_are_short(s):
    return [f"{SOURCE}:{f.first}: {f.name} has {f.last - f.first + 1} lines, over {LINES_MAX}"
            for f in s.functions if f.last - f.first + 1 > LINES_MAX]


def no_floating_point(s):
    return [f"{SOURCE}:{line_of(s.code, m.start())}: floating point: {m[0]}"
            for m in re.finditer(r"\b(float|double|strtod|strtof|atof)\b|\b\d+\.\d+", s.code)]


def options_in_help(_):
    output, status = run(BINARY, "--help")
    if status:
        return [f"{BINARY}:1: --help ends with {status}"]
    return [f"{BINARY}:1: --help lacks --{o}" for o in OPTIONS
            if not re.search(rf"--{o}(?![\w-])", output)]


CHECKS = [
    compiler("gcc"), compiler("gcc", "-DRP_DEBUG=1"), compiler("clang-14"), compiler("musl-gcc"),
    formatted, cppcheck, globals_are_the_doors, rooms_in_order, doors_hold, no_prototypes,
    functions_are_short, no_floating_point, options_in_help,
]


def main():
    source, failed = Source(), 0
    for check in CHECKS:
        found = check(source)
        print(f"{'not ok' if found else 'ok'} {check.__name__.replace('_', ' ')}")
        for line in found[:50]:
            print(f"{line}")
        failed += bool(found)
    print(f"{len(CHECKS) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
