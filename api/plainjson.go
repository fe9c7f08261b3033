package api

import (
	"bytes"
	"encoding/json"
)

// Bounds of what isPlain looks at; what is beyond them is looked at by checkValue.
const (
	plainNames  = 32 // of one object
	plainNumber = 64 // bytes
)

// isPlain reports whether a text is surely one that checkJSON takes, as nearly all are; the rest is looked at closely.
func isPlain(body []byte) bool {
	if !json.Valid(body) {
		return false
	}
	rest, ok := plainValue(body, 0)
	return ok && len(bytes.TrimLeft(rest, " \t\r\n")) == 0
}

// plainValue reads over a value of valid JSON.
func plainValue(b []byte, depth int) (rest []byte, ok bool) {
	b = bytes.TrimLeft(b, " \t\r\n")
	switch {
	case len(b) == 0 || depth > maxDepth:
		return nil, false
	case b[0] == '{':
		return plainObject(b[1:], depth)
	case b[0] == '[':
		return plainArray(b[1:], depth)
	case b[0] == '"':
		_, rest = plainText(b)
		return rest, rest != nil
	}
	end := bytes.IndexAny(b, ",]} \t\r\n")
	if end < 0 {
		end = len(b)
	}
	number := b[0] == '-' || b[0] >= '0' && b[0] <= '9'
	if number && (end > plainNumber || bytes.ContainsAny(b[:end], "eE")) {
		return nil, false
	}
	return b[end:], true
}

// plainText reads over a string, and returns what is between its quotes. Nothing is left if it has no end.
func plainText(b []byte) (text, rest []byte) {
	for i := 1; i < len(b); i++ {
		switch b[i] {
		case '\\':
			i++
		case '"':
			return b[1:i], b[i+1:]
		}
	}
	return nil, nil
}

func plainObject(b []byte, depth int) (rest []byte, ok bool) {
	if depth >= maxDepth {
		return nil, false
	}
	var few [plainNames][]byte
	names := few[:0]
	for {
		b = bytes.TrimLeft(b, " \t\r\n,")
		if len(b) == 0 {
			return nil, false
		}
		if b[0] == '}' {
			return b[1:], true
		}
		name, after := plainText(b)
		if b[0] != '"' || after == nil || len(names) == plainNames || bytes.IndexByte(name, '\\') >= 0 {
			return nil, false
		}
		for _, before := range names {
			if bytes.Equal(before, name) {
				return nil, false
			}
		}
		names = append(names, name)
		after = bytes.TrimLeft(after, " \t\r\n:")
		if b, ok = plainValue(after, depth+1); !ok {
			return nil, false
		}
	}
}

func plainArray(b []byte, depth int) (rest []byte, ok bool) {
	if depth >= maxDepth {
		return nil, false
	}
	for {
		b = bytes.TrimLeft(b, " \t\r\n,")
		if len(b) == 0 {
			return nil, false
		}
		if b[0] == ']' {
			return b[1:], true
		}
		if b, ok = plainValue(b, depth+1); !ok {
			return nil, false
		}
	}
}
