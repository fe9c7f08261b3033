package mobyfs

import (
	"errors"
	"fmt"
)

// Code is the kind of an error. Codes cross the wire and programs decide on them; texts are for people.
type Code string

const (
	CodeInvalid     Code = "invalid"     // the request can never succeed as it stands
	CodeNotFound    Code = "not-found"   // no such volume, node or migration, and that is known, not guessed
	CodeExists      Code = "exists"      // the name is taken by something else
	CodeInUse       Code = "in-use"      // another node or a container holds the volume
	CodeMoving      Code = "moving"      // a migration of the volume is under way
	CodeStaleFence  Code = "stale-fence" // the caller acts on a decision that a newer one has replaced
	CodeChanged     Code = "changed"     // the record is not the one any more that the caller has seen
	CodeReused      Code = "reused"      // the key of this request was given to another request before
	CodeBusy        Code = "busy"        // the caller asks for too much at once; later it may have it
	CodeDenied      Code = "denied"      // the caller's certificate does not allow this
	CodeUnavailable Code = "unavailable" // nobody could be asked; the answer is unknown, trying again may help
	CodeNoSpace     Code = "no-space"    // the bytes would not fit
	CodeCorrupt     Code = "corrupt"     // bytes arrived or lie here that are not those that were sent
	CodeInternal    Code = "internal"    // a bug or a broken machine; the text is all there is
)

// Error is an error whose kind is known. Its text is one line: what was asked, of which object, and why it can't
// be. Hint is the way out, a sentence or a command, and may be empty.
type Error struct {
	Code Code
	Text string
	Hint string
	Err  error // the cause, already part of Text; for errors.Is and errors.As
}

func (e *Error) Error() string { return e.Text }

func (e *Error) Unwrap() error { return e.Err }

// Errorf makes an Error. Like fmt.Errorf it wraps the operand of %w.
func Errorf(code Code, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Code: code, Text: err.Error(), Err: errors.Unwrap(err)}
}

// WithHint returns a copy of e that tells the way out.
func (e *Error) WithHint(format string, args ...any) *Error {
	c := *e
	c.Hint = fmt.Sprintf(format, args...)
	return &c
}

// CodeOf tells the kind of err: that of the first Error in its chain, CodeInternal if there is none, and "" for nil.
func CodeOf(err error) Code {
	if err == nil {
		return ""
	}
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return CodeInternal
}

// HintOf returns the way out that err's chain tells, or "".
func HintOf(err error) string {
	var e *Error
	for err != nil && errors.As(err, &e) {
		if e.Hint != "" {
			return e.Hint
		}
		err = e.Err
	}
	return ""
}
