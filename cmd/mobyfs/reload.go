package main

import (
	"cmp"
	"context"
	"log/slog"
	"os"
	"reflect"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"github.com/mobyfs/mobyfs/agent"
	"github.com/mobyfs/mobyfs/api"
	"github.com/mobyfs/mobyfs/internal/pki"
)

// reload takes settings over again at each signal. What a flag set stays; of the rest the environment file decides.
type reload struct {
	hangup  <-chan os.Signal
	flags   *pflag.FlagSet // of the command
	shown   *slog.LevelVar
	control *api.Client
	agent   *agent.Agent
}

// run reloads until ctx ends. now are the settings that mobyfs was started with.
func (r reload) run(ctx context.Context, now settings, log *slog.Logger) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.hangup:
		}
		next, err := r.read(now)
		if err == nil {
			err = next.check()
		}
		if err != nil {
			log.Warn("read the settings again; they stay as they are", "err", err)
			continue
		}
		now = r.take(now, next, log)
	}
}

// read gives the settings as they would be after a restart.
func (r reload) read(now settings) (settings, error) {
	env, err := readEnv(now.envFile)
	if err != nil {
		return now, err
	}
	var next settings
	flags := pflag.NewFlagSet("start", pflag.ContinueOnError)
	next.bind(flags, func(key string) string { return env[key] })
	r.flags.Visit(func(f *pflag.Flag) {
		value := f.Value.String()
		if list, ok := f.Value.(pflag.SliceValue); ok {
			value = strings.Join(list.GetSlice(), ",")
		}
		if err == nil {
			err = flags.Set(f.Name, value)
		}
	})
	return next, err
}

// take makes the next settings those of now where that can be done without a restart, and says what changed. The
// connections to control are made anew in any case, with the certificate as it is on disk now; those from control's,
// other nodes' and Docker's side read it at each handshake anyway.
func (r reload) take(now, next settings, log *slog.Logger) settings {
	taken, restart := now, []string{}
	taken.log, taken.control, taken.advertise = next.log, next.control, next.advertise
	var changed []string
	note := func(differs bool, what string) {
		if differs {
			changed = append(changed, what)
		}
	}
	note(now.log != next.log, "log level")
	note(!slices.Equal(now.control, next.control), "control")
	note(now.advertise != next.advertise, "advertised address")
	for name, pair := range map[string][2]any{
		"cluster": {now.cluster, next.cluster}, "node": {now.node, next.node}, "port": {now.port, next.port},
		"root": {now.root, next.root}, "endpoint": {now.endpoint, next.endpoint}, "docker": {now.docker, next.docker},
		"zone": {now.zone, next.zone}, "rack": {now.rack, next.rack}, "labels": {now.labels, next.labels},
		"linger": {now.linger, next.linger}, "trash": {now.trash, next.trash}, "metrics": {now.metrics, next.metrics}, "volume metrics": {now.perVolume, next.perVolume},
	} {
		if !reflect.DeepEqual(pair[0], pair[1]) {
			restart = append(restart, name)
		}
	}
	slices.Sort(restart)
	toControl, err := taken.files().ClientTLS(pki.RoleControl, "control")
	if err != nil {
		log.Warn("read the certificate again; settings stay as they are", "err", err)
		return now
	}
	level, _ := parseLevel(next.log) // check has seen it
	r.shown.Set(level)
	r.control.Redirect(taken.control, toControl)
	r.agent.Advertise(taken.advertise)
	_, until, _ := taken.files().Identity() // ClientTLS has read it
	log.Info("settings and certificates were read again", "changed", cmp.Or(strings.Join(changed, ", "), "nothing"),
		"restart", cmp.Or(strings.Join(restart, ", "), "nothing"), "until", until.Format("2006-01-02"))
	return taken
}
