package mobyfs

import (
	"strings"
	"testing"
)

func TestSizesAreReadAsLinuxToolsReadThem(t *testing.T) {
	for text, want := range map[string]int64{
		"1": 1, "1024": 1024, "10G": 10 << 30, "10g": 10 << 30, "10GiB": 10 << 30, "512mib": 512 << 20, "1.5G": 3 << 29,
		"1 TiB": 1 << 40, "10GB": 10e9, "7kB": 7000, "3K": 3072, "12b": 12, " 2G ": 2 << 30, "1P": 1 << 50, "1024P": 1 << 60,
	} {
		got, err := ParseSize(text)
		if err != nil || got != want {
			t.Errorf("%q: got %d, %v, want %d", text, got, err, want)
		}
		if again, err := ParseSize(FormatSize(want)); err != nil || again != want {
			t.Errorf("FormatSize(%d) = %q, which reads as %d, %v", want, FormatSize(want), again, err)
		}
	}
	for bytes, want := range map[int64]string{1 << 30: "1G", 1500: "1500", 10 << 40: "10T", 3 << 29: "1536M"} {
		if got := FormatSize(bytes); got != want {
			t.Errorf("FormatSize(%d) = %q, want %q", bytes, got, want)
		}
	}
}

func TestWhatIsNoSizeIsRefusedInOneLine(t *testing.T) {
	for _, text := range []string{"", "G", "-1G", "0", "0.4", "1e3", "10X", "10 G B", "10iB", "1,5G", "inf", "0x10", "1025P",
		"9999P", strings.Repeat("9", 400), "1G\n1G", "１G"} {
		got, err := ParseSize(text)
		if err == nil {
			t.Errorf("%q: got %d, want an error", text, got)
			continue
		}
		if CodeOf(err) != CodeInvalid || HintOf(err) == "" || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: code %q, hint %q, text %q", text, CodeOf(err), HintOf(err), err)
		}
	}
}
