package feed

import (
	"bytes"
	"encoding/binary"
	"errors"

	"golang.org/x/sys/unix"
)

// event is one event of fanotify(7). Its bytes lie in the buffer it was read into.
type event struct {
	mask uint64
	dir  []byte // handle of the directory, as handleKey has it; nil if the kernel did not tell
	name []byte // in dir; "." is the directory itself
	file []byte // handle of what the event is about; nil if the kernel did not tell
}

var errEvents = errors.New("events of fanotify that nobody understands")

// events calls each with the events that one read brought.
func events(buf []byte, each func(event)) error {
	for len(buf) > 0 {
		if len(buf) < 24 {
			return errEvents
		}
		size, head := int(binary.NativeEndian.Uint32(buf)), int(binary.NativeEndian.Uint16(buf[6:]))
		if size < head || head < 24 || size > len(buf) || buf[4] != unix.FANOTIFY_METADATA_VERSION {
			return errEvents
		}
		e := event{mask: binary.NativeEndian.Uint64(buf[8:])}
		if err := e.infos(buf[head:size]); err != nil {
			return err
		}
		each(e)
		buf = buf[size:]
	}
	return nil
}

// infos reads the records that follow the head of an event.
func (e *event) infos(buf []byte) error {
	for len(buf) > 0 {
		if len(buf) < 4 {
			return errEvents
		}
		kind, size := buf[0], int(binary.NativeEndian.Uint16(buf[2:]))
		if size < 4 || size > len(buf) {
			return errEvents
		}
		info := buf[4:size]
		buf = buf[size:]
		switch kind {
		case unix.FAN_EVENT_INFO_TYPE_FID, unix.FAN_EVENT_INFO_TYPE_DFID, unix.FAN_EVENT_INFO_TYPE_DFID_NAME:
		default:
			continue
		}
		// The file system's ID, the handle's length and type, the handle, and perhaps a name that a zero ends.
		if len(info) < 16 {
			return errEvents
		}
		n := int(binary.NativeEndian.Uint32(info[8:]))
		if n > len(info)-16 || n < 0 {
			return errEvents
		}
		handle := info[12 : 16+n]
		switch kind {
		case unix.FAN_EVENT_INFO_TYPE_FID:
			e.file = handle
		case unix.FAN_EVENT_INFO_TYPE_DFID:
			e.dir, e.name = handle, []byte(".")
		default:
			name, _, ok := bytes.Cut(info[16+n:], []byte{0})
			if !ok || len(name) == 0 || bytes.IndexByte(name, '/') >= 0 {
				return errEvents
			}
			e.dir, e.name = handle, name
		}
	}
	return nil
}
