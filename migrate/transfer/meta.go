package transfer

import (
	"encoding/binary"
	"fmt"
	"math"
	"strings"

	"golang.org/x/sys/unix"
)

// kind is what an entry of a tree is. kindLink is one more name of an entry that came before.
type kind byte

const (
	kindDir     kind = 'd'
	kindFile    kind = 'f'
	kindSymlink kind = 'l'
	kindFifo    kind = 'p'
	kindSocket  kind = 's'
	kindChar    kind = 'c'
	kindBlock   kind = 'b'
	kindLink    kind = 'h'
)

// kinds maps the file type bits of a mode to kinds.
var kinds = map[uint32]kind{
	unix.S_IFDIR: kindDir, unix.S_IFREG: kindFile, unix.S_IFLNK: kindSymlink, unix.S_IFIFO: kindFifo,
	unix.S_IFSOCK: kindSocket, unix.S_IFCHR: kindChar, unix.S_IFBLK: kindBlock,
}

// meta is all that is kept of an entry besides a file's content. Its encoding is both what is sent and what the
// digest is made of.
type meta struct {
	kind   kind
	name   string // one path element; "" for the root
	link   uint64 // kindLink: the number of the entry that this is another name of; nothing below is set then
	mode   uint32 // the lower twelve bits
	uid    uint32
	gid    uint32
	sec    int64 // time of the last change of content
	nsec   uint32
	size   int64  // kindFile
	target string // kindSymlink
	major  uint32 // kindChar, kindBlock
	minor  uint32
	attrs  []attr // extended attributes, sorted by name
}

type attr struct {
	name  string
	value []byte
}

// carried reports whether an extended attribute belongs to the volume. Others, such as SELinux labels, belong to
// the host. ACLs are the two of system.
func carried(name string) bool {
	switch name {
	case "security.capability", aclAccess, aclDefault:
		return true
	case "trusted.SGI_ACL_FILE", "trusted.SGI_ACL_DEFAULT": // xfs lists ACLs a second time, in the form in which it keeps them
		return false
	}
	return strings.HasPrefix(name, "user.") || strings.HasPrefix(name, "trusted.")
}

const (
	aclAccess  = "system.posix_acl_access"
	aclDefault = "system.posix_acl_default"
)

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// appendTo appends the one encoding of m.
func (m *meta) appendTo(b []byte) []byte {
	b = appendString(append(b, byte(m.kind)), m.name)
	if m.kind == kindLink {
		return binary.AppendUvarint(b, m.link)
	}
	return m.appendBody(b)
}

// appendBody appends what comes after the name.
func (m *meta) appendBody(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(m.mode))
	b = binary.AppendUvarint(b, uint64(m.uid))
	b = binary.AppendUvarint(b, uint64(m.gid))
	b = binary.AppendVarint(b, m.sec)
	b = binary.AppendUvarint(b, uint64(m.nsec))
	switch m.kind {
	case kindFile:
		b = binary.AppendUvarint(b, uint64(m.size))
	case kindSymlink:
		b = appendString(b, m.target)
	case kindChar, kindBlock:
		b = binary.AppendUvarint(b, uint64(m.major))
		b = binary.AppendUvarint(b, uint64(m.minor))
	}
	b = binary.AppendUvarint(b, uint64(len(m.attrs)))
	for _, a := range m.attrs {
		b = appendString(b, a.name)
		b = binary.AppendUvarint(b, uint64(len(a.value)))
		b = append(b, a.value...)
	}
	return b
}

// decodeMeta is the inverse of appendTo. It takes nothing that could not be an entry of a directory: the name is
// one element and never . or .., numbers are in range, only carried attributes occur, in order. The values of
// attributes point into b.
func decodeMeta(b []byte) (meta, error) {
	d := decoder{b: b}
	m := meta{kind: kind(d.byte())}
	m.name = d.string(255)
	if m.kind == kindLink {
		m.link = d.uint(math.MaxInt64)
		return m, d.end(checkName(m.name))
	}
	err := d.body(&m)
	if err == nil && (m.name != "" || m.kind != kindDir) {
		err = checkName(m.name)
	}
	return m, d.end(err)
}

// body takes what comes after the name of an entry whose kind is known.
func (d *decoder) body(m *meta) (err error) {
	m.mode = uint32(d.uint(0o7777))
	m.uid = uint32(d.uint(math.MaxUint32 - 1)) // the last one stands for "leave it" in chown(2)
	m.gid = uint32(d.uint(math.MaxUint32 - 1))
	m.sec = d.int()
	m.nsec = uint32(d.uint(999_999_999))
	switch m.kind {
	case kindFile:
		m.size = int64(d.uint(math.MaxInt64))
	case kindSymlink:
		m.target = d.string(unix.PathMax - 1)
		if m.target == "" || strings.IndexByte(m.target, 0) >= 0 {
			err = fmt.Errorf("%q can't be the target of a symbolic link", m.target)
		}
	case kindChar, kindBlock:
		m.major = uint32(d.uint(math.MaxUint32))
		m.minor = uint32(d.uint(math.MaxUint32))
	case kindDir, kindFifo, kindSocket:
	default:
		err = fmt.Errorf("there is no kind %q", m.kind)
	}
	m.attrs = d.attrs()
	return err
}

// decodeBody is the inverse of appendBody.
func decodeBody(k kind, body string) (meta, error) {
	d := decoder{b: []byte(body)}
	m := meta{kind: k}
	err := d.body(&m)
	return m, decoded("metadata", d.end(err))
}

func checkName(name string) error {
	if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
		return fmt.Errorf("%q can't be the name of an entry", name)
	}
	return nil
}

// decoder takes values off the front of b. After the first that is not there or out of range it returns zeros, and
// end returns the error.
type decoder struct {
	b   []byte
	err error
}

func (d *decoder) fail(what string) {
	if d.err == nil {
		d.err = fmt.Errorf("%s is missing or out of range", what)
	}
	d.b = nil
}

func (d *decoder) byte() byte {
	if len(d.b) == 0 {
		d.fail("a byte")
		return 0
	}
	c := d.b[0]
	d.b = d.b[1:]
	return c
}

func (d *decoder) uint(limit uint64) uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 || v > limit {
		d.fail("a number")
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) int() int64 {
	v, n := binary.Varint(d.b)
	if n <= 0 {
		d.fail("a number")
		return 0
	}
	d.b = d.b[n:]
	return v
}

// bytes takes n bytes; they point into what is decoded.
func (d *decoder) bytes(n int) []byte {
	if n > len(d.b) {
		d.fail(fmt.Sprintf("a stretch of %d bytes", n))
		return nil
	}
	v := d.b[:n:n]
	d.b = d.b[n:]
	return v
}

func (d *decoder) string(limit int) string { return string(d.bytes(int(d.uint(uint64(limit))))) }

func (d *decoder) sum() (s sum) {
	copy(s[:], d.bytes(len(s)))
	return s
}

func (d *decoder) attrs() []attr {
	n := d.uint(maxMeta / 8)
	var all []attr
	for last := ""; n > 0 && d.err == nil; n-- {
		a := attr{name: d.string(255), value: d.bytes(int(d.uint(maxAttr)))}
		if !carried(a.name) || a.name <= last || strings.IndexByte(a.name, 0) >= 0 {
			d.fail(fmt.Sprintf("an attribute at the place of %q", a.name))
			return nil
		}
		all, last = append(all, a), a.name
	}
	return all
}

// end returns err, or what went wrong before, or that something is left over.
func (d *decoder) end(err error) error {
	if d.err != nil {
		return d.err
	}
	if err == nil && len(d.b) != 0 {
		err = fmt.Errorf("%d bytes are left over", len(d.b))
	}
	return err
}
