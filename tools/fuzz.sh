#!/usr/bin/env bash
# Fuzzes everything that reads what Docker, the network or somebody else's disk passes on, and records the run: `tools/fuzz.sh FILE [DIVISOR]`
# (make fuzz: twenty minutes; a DIVISOR makes each target's time that much shorter). What a target finds stays in testdata/fuzz beside it,
# from where `go test` tries it ever after.
set -euo pipefail
cd "$(dirname "$0")/.."
into=$1
divisor=${2:-1}
rows=""
total=0

# ended OUTPUT: go before 1.27 now and then takes the end of -fuzztime for a failure (golang/go#75804). What a target finds is written
# down, and is said.
ended() { grep -qx '    context deadline exceeded' <<<"$1" && ! grep -qE 'Failing input|panic:|_test.go:' <<<"$1"; }

# fuzz SECONDS PACKAGE TARGET WHAT…
fuzz() {
	local seconds=$(($1 / divisor)) package=$2 target=$3 out
	shift 3
	echo "$package $target: $seconds s"
	# Long inputs, such as certificates, would be made shorter for all of the time.
	out=$(go test -run '^$' -fuzz "^$target\$" -fuzztime "${seconds}s" -fuzzminimizetime 20x -parallel 1 "$package" 2>&1) || ended "$out" || {
		echo "$out"
		exit 1
	}
	total=$((total + seconds))
	rows+="| \`$package\` | \`$target\` | $* | $seconds | $(grep -o 'execs: [0-9]*' <<<"$out" | tail -1 | cut -d' ' -f2) | 0 |"$'\n'
}

fuzz 120 ./driver FuzzCall 'any body for any call, from Docker and from others'
fuzz 60 ./driver FuzzArguments 'any name, ID and option in a well-formed call'
fuzz 30 ./agent FuzzParseOptions 'any two options of `docker volume create`'
fuzz 20 . FuzzParseSize 'any size'
fuzz 20 . FuzzCheckVolumeName 'any name of a volume'
fuzz 90 ./api FuzzRequest 'any method, path, header and body of a request to control'
fuzz 60 ./api FuzzCheckJSON 'any body of a request to control'
fuzz 20 ./api FuzzSince 'any query and Last-Event-ID of a stream'
fuzz 20 ./api FuzzEventStream 'any stream of events that a client reads'
fuzz 20 ./api FuzzNextCursor 'any Link header that a client reads'
fuzz 20 ./control FuzzCursor 'any cursor of a list'
fuzz 20 ./control FuzzMay 'any role and action'
fuzz 40 ./control FuzzPatch 'any patch of a volume, in use, moving or not'
fuzz 40 ./control/store FuzzRecord 'any record of any kind in the store'
fuzz 20 ./control/store FuzzEncode 'any record that is rewritten'
fuzz 30 ./control/backup FuzzOpen 'any backup, its header first'
fuzz 20 ./internal/audit FuzzRead 'any segment of the audit trail'
fuzz 40 ./internal/link FuzzFrames 'any frames on a link of an agent'
fuzz 40 ./internal/pki FuzzInvitation 'any token to join with'
fuzz 40 ./internal/pki FuzzRequest 'any certificate request'
fuzz 40 ./internal/pki FuzzTicket 'any ticket of a pull'
fuzz 40 ./internal/pki FuzzIdentity 'any certificate, for who it says it is'
fuzz 20 ./internal/pki FuzzRenewal 'any renewal of a certificate'
fuzz 20 ./internal/pki FuzzAnswer 'any answer of `mobyfs-control sign` on another host'
fuzz 20 ./internal/seal FuzzOpen 'any sealed record'
fuzz 20 ./internal/seal FuzzParse 'any text of a key'
fuzz 40 ./migrate/bundle FuzzBlocks 'any blocks on two connections of a pull'
fuzz 20 ./migrate/bundle FuzzOpening 'any opening of a connection of a pull'
fuzz 60 ./migrate/transfer FuzzStream 'any stream of a pull, frame by frame'
fuzz 60 ./migrate/transfer FuzzMirror 'any steps and pieces of a live session, into a tree'
fuzz 30 ./migrate/feed FuzzEvents 'any events of a file system'
fuzz 30 ./migrate/feed FuzzRootRefs 'what a search for subvolumes found'
fuzz 20 ./migrate/feed FuzzExtents 'any map of where a file lies, compared with itself'
fuzz 30 ./provision/step FuzzFacts 'anything that a host prints of itself'

earlier=$(sed -n '/^## What earlier runs found/,$p' "$into" 2>/dev/null || true)
cat >"$into" <<END
# Fuzzing
Made by \`make fuzz\` on $(date -u +%Y-%m-%d) with $(go version | cut -d' ' -f3), one worker for each target, $total seconds in all. A target promises more than that nothing
panics; its comment says what. A run that finds something fails and records nothing.

| package | target | what is varied | seconds | executions | crashes |
|---|---|---|---|---|---|
${rows%$'\n'}

$earlier
END
