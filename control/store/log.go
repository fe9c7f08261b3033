package store

import (
	"context"
	"log/slog"
	"sync/atomic"

	"go.uber.org/zap/zapcore"
)

// etcdLog hands what etcd says to slog: its errors as warnings, for what is really wrong ends the store and is
// told by Err; all else as debug. While it starts and stops its errors are no more than the noise of that.
type etcdLog struct {
	handler slog.Handler
	serving *atomic.Bool
}

func (l etcdLog) level(of zapcore.Level) slog.Level {
	switch {
	case of >= zapcore.DPanicLevel:
		return slog.LevelError
	case of >= zapcore.ErrorLevel && l.serving.Load():
		return slog.LevelWarn
	default:
		return slog.LevelDebug
	}
}

// Enabled implements zapcore.Core.
func (l etcdLog) Enabled(level zapcore.Level) bool {
	return l.handler.Enabled(context.Background(), l.level(level))
}

// With implements zapcore.Core.
func (l etcdLog) With(fields []zapcore.Field) zapcore.Core {
	return etcdLog{l.handler.WithAttrs(attrs(fields)), l.serving}
}

// Check implements zapcore.Core.
func (l etcdLog) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if l.Enabled(e.Level) {
		return ce.AddCore(e, l)
	}
	return ce
}

// Write implements zapcore.Core.
func (l etcdLog) Write(e zapcore.Entry, fields []zapcore.Field) error {
	r := slog.NewRecord(e.Time, l.level(e.Level), "etcd: "+e.Message, 0)
	r.AddAttrs(attrs(fields)...)
	return l.handler.Handle(context.Background(), r)
}

// Sync implements zapcore.Core.
func (l etcdLog) Sync() error { return nil }

func attrs(fields []zapcore.Field) []slog.Attr {
	enc := zapcore.NewMapObjectEncoder()
	for _, f := range fields {
		f.AddTo(enc)
	}
	all := make([]slog.Attr, 0, len(enc.Fields))
	for _, f := range fields {
		if v, ok := enc.Fields[f.Key]; ok {
			all = append(all, slog.Any(f.Key, v))
		}
	}
	return all
}
