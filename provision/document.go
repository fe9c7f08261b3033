package provision

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"sort"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"

	"github.com/mobyfs/mobyfs/internal/nearest"
)

// ConfigError is everything that is wrong in a file, each with its place.
type ConfigError struct {
	File     string
	Findings []Finding
}

// Finding is one thing that is wrong. Line and Column begin at 1.
type Finding struct {
	Line    int    `json:"line"`
	Column  int    `json:"column"`
	Text    string `json:"text"`
	Excerpt string `json:"-"` // the lines around it, with a mark
}

func (e *ConfigError) Error() string {
	var b strings.Builder
	for i, f := range e.Findings {
		if i > 0 {
			b.WriteString("\n")
		}
		fmt.Fprintf(&b, "%s:%d:%d  %s\n%s", e.File, f.Line, f.Column, f.Text, f.Excerpt)
	}
	return strings.TrimRight(b.String(), "\n")
}

// document is a YAML text whose places are known by path, such as $.hosts[0].name.
type document struct {
	name     string
	text     []byte
	places   map[string]*token.Position // of the value, or of the key that introduces a mapping or a list
	keys     map[string]string          // line:column of a key → path of the mapping it stands in
	findings []Finding
}

func parseDocument(name string, text []byte) (*document, error) {
	d := &document{name: name, text: text, places: map[string]*token.Position{}, keys: map[string]string{}}
	file, err := parser.ParseBytes(text, 0)
	if err != nil {
		return nil, d.failed(err)
	}
	for _, doc := range file.Docs {
		if doc.Body != nil {
			ast.Walk(d, doc.Body)
		}
	}
	return d, nil
}

// Visit notes where things stand. It is for ast.Walk.
func (d *document) Visit(n ast.Node) ast.Visitor {
	switch n := n.(type) {
	case *ast.MappingValueNode:
		path, key := n.GetPath(), n.Key.GetToken().Position
		// The path of an entry is its own or its parent's, depending on how many entries the mapping has.
		parent := strings.TrimSuffix(path, "."+n.Key.GetToken().Value)
		d.keys[place(key)] = parent
		at := n.Value.GetToken().Position
		switch n.Value.(type) {
		case *ast.MappingNode, *ast.MappingValueNode, *ast.SequenceNode, *ast.NullNode:
			at = key
		}
		d.places[parent+"."+n.Key.GetToken().Value] = at
		if _, ok := d.places[parent]; !ok {
			d.places[parent] = key
		}
	}
	return d
}

func place(p *token.Position) string { return fmt.Sprintf("%d:%d", p.Line, p.Column) }

// decode fills v strictly.
func (d *document) decode(v any) error {
	err := yaml.NewDecoder(bytes.NewReader(d.text), yaml.Strict()).Decode(v)
	if errors.Is(err, io.EOF) {
		return d.failed(errors.New("the file is empty"))
	}
	if err != nil {
		return d.failed(err)
	}
	return nil
}

// failed turns an error of the YAML library into a ConfigError.
func (d *document) failed(err error) error {
	at, text := &token.Position{Line: 1, Column: 1}, err.Error()
	var placed yaml.Error
	if errors.As(err, &placed) {
		at, text = placed.GetToken().Position, placed.GetMessage()
	}
	var unknown *yaml.UnknownFieldError
	if errors.As(err, &unknown) {
		word := unknown.GetToken().Value
		text = fmt.Sprintf("unknown field %q", word) + didYouMean(word, keysAt(d.keys[place(at)]))
	}
	var mismatch *yaml.TypeError
	var shape *yaml.UnexpectedNodeTypeError
	if errors.As(err, &mismatch) {
		text = "this must be " + kindWord(mismatch.DstType.Kind())
	} else if errors.As(err, &shape) {
		text = "this must be " + map[ast.NodeType]string{
			ast.MappingType: kindWord(reflect.Struct), ast.SequenceType: kindWord(reflect.Slice)}[shape.Expected]
	}
	d.add(at, text)
	return d.err()
}

func kindWord(k reflect.Kind) string {
	switch k {
	case reflect.Int:
		return "a number"
	case reflect.String:
		return "a word"
	case reflect.Slice:
		return "a list"
	default:
		return "a mapping of keys to values"
	}
}

// wrong notes a finding about the value at a path, or about what it is missing from.
func (d *document) wrong(path, format string, args ...any) {
	at := d.places[path]
	for p := path; at == nil && strings.Contains(p, "."); {
		p = p[:strings.LastIndex(p, ".")]
		at = d.places[p]
	}
	if at == nil {
		at = &token.Position{Line: 1, Column: 1}
	}
	d.add(at, fmt.Sprintf(format, args...))
}

func (d *document) has(path string) bool { return d.places[path] != nil }

func (d *document) add(at *token.Position, text string) {
	d.findings = append(d.findings, Finding{Line: at.Line, Column: at.Column, Text: text, Excerpt: d.excerpt(at)})
}

// excerpt shows the line, the two before it, and where in it.
func (d *document) excerpt(at *token.Position) string {
	lines := strings.Split(string(d.text), "\n")
	var b strings.Builder
	for n := max(1, at.Line-2); n <= at.Line && n <= len(lines); n++ {
		mark := " "
		if n == at.Line {
			mark = ">"
		}
		b.WriteString(strings.TrimRight(fmt.Sprintf("%s %3d | %s", mark, n, lines[n-1]), " ") + "\n")
	}
	return b.String() + strings.Repeat(" ", len("> 999 | ")+at.Column-1) + "^\n"
}

// err is all findings in the order of the file, or nil.
func (d *document) err() error {
	if len(d.findings) == 0 {
		return nil
	}
	sort.SliceStable(d.findings, func(i, j int) bool { return d.findings[i].Line < d.findings[j].Line })
	return &ConfigError{File: d.name, Findings: d.findings}
}

func (d *document) port(path string, port int) {
	if port < 0 || port > 65535 {
		d.wrong(path, "%d is no TCP port: use 1 to 65535", port)
	}
}

// word refuses what would be more than one word, or an option, on a command line.
func (d *document) word(path, what, text string) {
	if strings.HasPrefix(text, "-") || strings.ContainsAny(text, " \t\n'\"@:/\\$`;&|<>") {
		d.wrong(path, "%q can't be a %s", text, what)
	}
}

// unique demands that no two hosts have the same text.
func (d *document) unique(path, what, text string, seen map[string]int, i int) {
	if text == "" {
		return
	}
	if first, ok := seen[text]; ok {
		line := 0
		if p := d.places[hostPath(first)+"."+what]; p != nil {
			line = p.Line
		}
		d.wrong(path, "the %s %q is taken by the host in line %d", what, text, line)
		return
	}
	seen[text] = i
}

func hostPath(i int) string { return "$.hosts[" + itoa(i) + "]" }

func itoa(i int) string { return strconv.Itoa(i) }

// didYouMean suggests the word that differs least, if one differs little.
func didYouMean(got string, words []string) string {
	meant := nearest.Word(got, words)
	if meant == "" {
		return ""
	}
	return fmt.Sprintf(" — did you mean %q?", meant)
}
