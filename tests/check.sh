#!/usr/bin/env bash
# Runs each argument as a command, goes on after a failure, and adds up what they counted.
#
#   tests/check.sh 'make -s unit' build/tests/unit_addr
#
# A count is the last line of a command's output that says "N passed" or "N failed" (pytest's has
# more words in it). A command that counts nothing is one test, and so is one that fails without
# counting a failure. The last line is the sum; exit status 1 if anything failed.
set -u -o pipefail
passed=0 failed=0 bad=()
out=$(mktemp) || exit 1
trap 'rm -f "$out"' EXIT

count() { # WORD LINE: the number before WORD, or 0
	[[ $2 =~ ([0-9]+)\ $1 ]] && echo "${BASH_REMATCH[1]}" || echo 0
}

for command; do
	[[ $# -gt 1 ]] && printf -- '---- %s\n' "$command"
	bash -c "$command" </dev/null 2>&1 | tee "$out"
	status=${PIPESTATUS[0]}
	line=$(grep -E '(^|[ =])[0-9]+ (passed|failed|error)' "$out" | tail -n 1)
	good=$(count passed "$line")
	wrong=$(($(count failed "$line") + $(count error "$line")))
	[[ $status -ne 0 && $wrong -eq 0 ]] && wrong=1
	[[ -z $line && $status -eq 0 ]] && good=1
	[[ $wrong -gt 0 ]] && bad+=("$command")
	passed=$((passed + good)) failed=$((failed + wrong))
done
for command in "${bad[@]}"; do echo "failed: $command"; done
echo "$passed passed, $failed failed"
[[ $failed -eq 0 ]]
