package control

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/nearest"
)

// ReadClasses reads the classes of volumes from a file, a JSON list of mobyfs.VolumeClass. No file is no classes.
func ReadClasses(path string) ([]mobyfs.VolumeClass, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the classes of volumes: %w", err)
	}
	var classes []mobyfs.VolumeClass
	decoder := json.NewDecoder(strings.NewReader(string(text)))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&classes); err != nil {
		return nil, mobyfs.Errorf(mobyfs.CodeInvalid, "read the classes of volumes in %s: %w", path, err).
			WithHint("mobyctl bootstrap writes it anew from cluster.yaml")
	}
	for _, c := range classes {
		if err := checkSpec("of class "+c.Name, c.Fill(mobyfs.VolumeSpec{}).WithDefaults()); err != nil {
			return nil, err
		}
	}
	return classes, nil
}

// fill completes what a volume is asked to be from its class and the defaults, and checks it.
func (c *Control) fill(name string, asked mobyfs.VolumeSpec) (mobyfs.VolumeSpec, error) {
	if asked.Class != "" {
		i := slices.IndexFunc(c.cfg.Classes, func(k mobyfs.VolumeClass) bool { return k.Name == asked.Class })
		if i < 0 {
			return asked, mobyfs.Errorf(mobyfs.CodeInvalid, "create volume %s: there is no class %q", name, clean(asked.Class, maxLabelKey)).
				WithHint("%s", c.otherClasses(asked.Class))
		}
		asked = c.cfg.Classes[i].Fill(asked)
	}
	full := asked.WithDefaults()
	return full, checkSpec(name, full)
}

// otherClasses names the class that is nearest to what was typed, and all of them.
func (c *Control) otherClasses(typed string) string {
	var names []string
	for _, k := range c.cfg.Classes {
		names = append(names, k.Name)
	}
	known := "known: " + strings.Join(names, ", ")
	if len(names) == 0 {
		return "this cluster has no classes: leave it out, or define it under classes in cluster.yaml"
	}
	if meant := nearest.Word(typed, names); meant != "" {
		return fmt.Sprintf("did you mean %s? (%s)", meant, known)
	}
	return known
}
