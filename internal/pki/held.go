package pki

import (
	"os"
	"sync"
)

// held is what files hold, kept for all who ask until one of the files is another one. A server has thousands of
// connections, each of which would keep roots and a key of its own otherwise.
type held struct {
	files Files
	mu    sync.Mutex
	as    [3]os.FileInfo
	id    loaded
}

// load is Files.load, which reads only what has changed.
func (h *held) load() (loaded, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	now, ok := h.files.stat()
	if ok && h.is(now) {
		return h.id, nil
	}
	id, err := h.files.load()
	if err != nil {
		return loaded{}, err
	}
	h.as, h.id = now, id
	if !ok {
		h.as = [3]os.FileInfo{}
	}
	return id, nil
}

// is reports whether the files are those that were read last. Whoever installs a certificate puts new files in place.
func (h *held) is(now [3]os.FileInfo) bool {
	for i, was := range h.as {
		if was == nil || !os.SameFile(was, now[i]) || was.Size() != now[i].Size() || !was.ModTime().Equal(now[i].ModTime()) {
			return false
		}
	}
	return true
}

// stat looks at the files, before they are read.
func (f Files) stat() (all [3]os.FileInfo, ok bool) {
	for i, name := range []string{f.Cert, f.Key, f.CA} {
		info, err := os.Stat(name)
		if err != nil {
			return all, false
		}
		all[i] = info
	}
	return all, true
}
