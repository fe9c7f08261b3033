package arch

import (
	"go/ast"
	"go/token"
	"slices"
	"strconv"
	"strings"
)

// logKeys are the words under which a line of a log may hold something, with what that is. Whoever searches logs for a
// volume or a node finds it under one key in all programs. A new word is written here first, and only if none says it.
var logKeys = map[string]string{
	// what the line is about
	"volume":    "its name; its ID where no name is known",
	"id":        "of the volume",
	"node":      "its name; of a line about two nodes, the one that is spoken of",
	"from":      "the node that gives a volume away",
	"to":        "the node that gets a volume",
	"mount":     "Docker's ID of a use",
	"container": "that uses a volume",
	"fence":     "of the decision",
	"migration": "its ID",
	"operation": "its ID",
	"kind":      "of the operation",
	"phase":     "of the operation",
	"step":      "what is done next, and why",
	"who":       "the identity in a certificate: role/name",
	"call":      "of the API or of Docker",
	"key":       "of a record, or of a request that may be repeated",
	"token":     "the ID of a join token, never the token",
	"member":    "of the store",
	"cluster":   "its name",
	"backend":   "that keeps bytes",
	"backup":    "its ID",
	"trust":     "which roots hold",

	// how it is
	"err":          "what went wrong",
	"hint":         "the way out",
	"cause":        "why, in words that somebody gave or control found",
	"attempt":      "how many tries there were",
	"again_in":     "until the next try",
	"state":        "that systemd is told",
	"level":        "of the room in the store",
	"epoch":        "of a session, or of fences",
	"generation":   "of a node's settings",
	"session_over": "the session is over",
	"lost":         "another node has it",
	"changed":      "settings that were taken over",
	"restart":      "settings that need one",
	"until":        "when something ends",
	"after":        "a time that has passed",
	"took":         "a time that it took",

	// how much
	"bytes":      "of content",
	"files":      "of a volume",
	"digest":     "of a volume's tree",
	"uses":       "of a volume",
	"containers": "of a volume",
	"calls":      "of Docker",
	"unanswered": "calls of Docker",
	"processes":  "that were ended",
	"free":       "bytes on a disk",
	"ballast":    "bytes that were let go",

	// where
	"address":   "host:port, or a URL",
	"endpoint":  "at which Docker calls",
	"endpoints": "at which Docker calls",
	"dockerd":   "its PID",
	"agent":     "the endpoint of the agent that a plugin passes calls on to",
	"path":      "of a file or a request",
	"dir":       "of the store",
	"pid":       "of a process",
	"uid":       "of a process",
	"version":   "of a program",
	"stack":     "of a goroutine that broke",
}

// keysIn calls each with every key that a file writes to a log, as far as that can be read from its text: the pairs of calls
// of a logger, and lists that are made for one.
func keysIn(file *ast.File, each func(at token.Pos, key string)) {
	pairs := func(args []ast.Expr) {
		for i := 0; i+1 < len(args); i += 2 {
			key, ok := args[i].(*ast.BasicLit)
			if !ok || key.Kind != token.STRING {
				return // a list that is passed on, which is looked at where it is made
			}
			if text, err := strconv.Unquote(key.Value); err == nil {
				each(key.Pos(), text)
			}
		}
	}
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.CallExpr:
			if first, ok := logs(n); ok && len(n.Args) > first {
				pairs(n.Args[first:])
			}
		case *ast.CompositeLit:
			if list, ok := n.Type.(*ast.ArrayType); ok && isAny(list.Elt) && len(n.Elts)%2 == 0 {
				pairs(n.Elts)
			}
		}
		return true
	})
}

// logs tells whether a call is one of a logger, and where its pairs begin.
func logs(c *ast.CallExpr) (first int, ok bool) {
	if fn, ok := c.Fun.(*ast.Ident); ok && fn.Name == "say" { // a logger's method that was chosen before
		return 1, true
	}
	method, ok := c.Fun.(*ast.SelectorExpr)
	if !ok || !isLogger(method.X) {
		return 0, false
	}
	at := slices.Index([]string{"With", "", "", "Log"}, method.Sel.Name)
	if slices.Contains([]string{"Debug", "Info", "Warn", "Error"}, method.Sel.Name) {
		at = 1
	}
	return at, at >= 0
}

// isLogger goes by the names that loggers have here.
func isLogger(x ast.Expr) bool {
	switch x := x.(type) {
	case *ast.Ident:
		return strings.EqualFold(x.Name, "log") || x.Name == "slog"
	case *ast.SelectorExpr:
		return strings.EqualFold(x.Sel.Name, "log")
	case *ast.CallExpr: // slog.New(…).With, s.log().Info
		fn, ok := x.Fun.(*ast.SelectorExpr)
		return ok && (isLogger(fn) || isLogger(fn.X))
	}
	return false
}

func isAny(x ast.Expr) bool {
	id, ok := x.(*ast.Ident)
	return ok && id.Name == "any"
}
