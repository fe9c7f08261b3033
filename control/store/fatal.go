package store

import (
	"errors"
	"fmt"
	"log/slog"
	"os"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"golang.org/x/sys/unix"
)

// lastWords is what happens when etcd can't go on, for it could not write what it must not lose. The process ends at
// once, for nothing that it would still say could be trusted. Before a disk that is full it gives the ballast up, so that
// the next start has room.
type lastWords struct {
	log *slog.Logger
	b   ballast
}

// exitFailed is the code with which the process ends then.
const exitFailed = 1

// OnWrite implements zapcore.CheckWriteHook. It does not return.
func (l lastWords) OnWrite(e *zapcore.CheckedEntry, fields []zapcore.Field) {
	for _, f := range fields {
		err, ok := f.Interface.(error)
		if !ok || !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EDQUOT) {
			continue
		}
		d, _ := l.b.disk() // what it tells is the text's alone
		l.log.Error("control ends: the disk of the store is full. Make room there: it starts again by itself, and nothing that was acknowledged is lost",
			"dir", l.b.dir, "free", d.Free, "ballast", d.Ballast, "err", err)
		if err := l.b.giveUp(); err != nil {
			l.log.Error("the ballast could not be given up", "err", err)
		}
		os.Exit(exitFailed)
	}
	if e.Level == zapcore.FatalLevel {
		l.log.Error("control ends: etcd can't go on: " + e.Message)
		os.Exit(exitFailed)
	}
	panic(fmt.Sprint("etcd: ", e.Message))
}

// options make a logger end the process so.
func (l lastWords) options() []zap.Option {
	return []zap.Option{zap.WithFatalHook(l), zap.WithPanicHook(l)}
}
