package mobyfs

import (
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

var sizeForm = regexp.MustCompile(`(?i)^([0-9]{1,18}(?:\.[0-9]{1,6})?) ?(?:([kmgtp])(i?b)?|b)?$`)

// sizeUnits are the letters of the powers of 1024 or 1000.
var sizeUnits = []string{"", "K", "M", "G", "T", "P"}

// ParseSize reads a size as the tools of a Linux host do: K, M, G, T, P and KiB … are powers of 1024, KB … are
// powers of 1000, no unit is bytes. The answer is in bytes, between 1 and 2^60.
func ParseSize(text string) (int64, error) {
	parts := sizeForm.FindStringSubmatch(strings.TrimSpace(text))
	if parts == nil {
		return 0, Errorf(CodeInvalid, "size=%.40q is no size", text).WithHint("write it as 10G, 512MiB or in bytes")
	}
	number, err := strconv.ParseFloat(parts[1], 64)
	if err != nil {
		return 0, err
	}
	base := 1024.0
	if strings.EqualFold(parts[3], "b") {
		base = 1000
	}
	number *= math.Pow(base, float64(slices.Index(sizeUnits, strings.ToUpper(parts[2]))))
	if number < 1 || number > 1<<60 {
		return 0, Errorf(CodeInvalid, "size=%.40q is not between one byte and 1024 PiB", text).
			WithHint("write it as 10G, 512MiB or in bytes")
	}
	return int64(number), nil
}

// FormatSize writes a size so that ParseSize reads the same from it.
func FormatSize(bytes int64) string {
	power := 0
	for bytes != 0 && bytes%1024 == 0 && power < len(sizeUnits)-1 {
		bytes /= 1024
		power++
	}
	return fmt.Sprintf("%d%s", bytes, sizeUnits[power])
}
