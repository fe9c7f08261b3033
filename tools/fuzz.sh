#!/usr/bin/env bash
# Fuzzes everything that reads what Docker or the network passes on, for a quarter of an hour in all, and records the run: `tools/fuzz.sh FILE`
# (make fuzz). What a target finds stays in testdata/fuzz beside it, from where `go test` tries it ever after.
set -euo pipefail
cd "$(dirname "$0")/.."
into=$1
rows=""

# fuzz SECONDS PACKAGE TARGET WHAT…
fuzz() {
	local seconds=$1 package=$2 target=$3 out
	shift 3
	echo "$package $target: $seconds s"
	out=$(go test -run '^$' -fuzz "^$target\$" -fuzztime "${seconds}s" -parallel 1 "$package" 2>&1) || {
		echo "$out"
		exit 1
	}
	rows+="| \`$package\` | \`$target\` | $* | $seconds | $(grep -o 'execs: [0-9]*' <<<"$out" | tail -1 | cut -d' ' -f2) | 0 |"$'\n'
}

fuzz 240 ./driver FuzzCall 'any body for any call, from Docker and from others'
fuzz 180 ./driver FuzzArguments 'any name, ID and option in a well-formed call'
fuzz 60 ./agent FuzzParseOptions 'any two options of `docker volume create`'
fuzz 60 . FuzzParseSize 'any size'
fuzz 60 . FuzzCheckVolumeName 'any name of a volume'
fuzz 60 ./api FuzzCheckJSON 'any body of a request to control'
fuzz 30 ./api FuzzSince 'any query and Last-Event-ID of a stream'
fuzz 30 ./api FuzzEventStream 'any stream of events that a client reads'
fuzz 30 ./api FuzzNextCursor 'any Link header that a client reads'
fuzz 30 ./control FuzzCursor 'any cursor of a list'
fuzz 30 ./control FuzzMay 'any role and action'
fuzz 60 ./control/store FuzzRecord 'any record of any kind in the store'
fuzz 30 ./internal/audit FuzzRead 'any segment of the audit trail'

cat >"$into" <<END
# Fuzzing
Made by \`make fuzz\` on $(date -u +%Y-%m-%d) with $(go version | cut -d' ' -f3), one worker for each target. A target promises more than that nothing
panics; its comment says what. A run that finds something fails and records nothing.

| package | target | what is varied | seconds | executions | crashes |
|---|---|---|---|---|---|
${rows%$'\n'}
END
