package bundle

import (
	"fmt"
	"io"
	"testing"
)

// BenchmarkStream carries data that can't be packed and data that can over loopback, by protocol 1 and by bundles, and over a
// link that is limited. It prints, beside the speed, how many bytes crossed for each one that was written.
func BenchmarkStream(b *testing.B) {
	const size = 64 << 20
	for _, data := range []struct {
		name  string
		bytes []byte
	}{{"random", random(size, 1)}, {"half", text(size, 1)}} {
		for _, connections := range []int{0, 1, 2, 4} { // 0: protocol 1
			for _, limit := range []int64{0, 60 << 20} {
				if connections == 0 && limit > 0 || connections == 1 && limit > 0 {
					continue
				}
				b.Run(fmt.Sprintf("%s/connections=%d/MiB=%d", data.name, connections, limit>>20), func(b *testing.B) {
					s := newServer(b)
					d := s.dialer(b, "h2", connections)
					d.Plain = connections == 0
					client, err := d.Dial(b.Context())
					must(b, err)
					defer client.Close()
					if d.Plain {
						_, err = client.Write([]byte{0, 0, 0, 0, 0})
						must(b, err)
						must(b, client.Flush())
					}
					served, err := s.next(b)
					must(b, err)
					defer served.Close()
					served.SetLimit(limit)
					b.SetBytes(size)
					for b.Loop() {
						go func() {
							for at := 0; at < size; at += 1 << 20 {
								_, _ = served.Write(data.bytes[at : at+1<<20])
							}
							_ = served.Flush()
						}()
						if _, err := io.CopyN(io.Discard, client, size); err != nil {
							b.Fatal(err)
						}
					}
					if st := served.Stats(); st.Written > 0 {
						b.ReportMetric(float64(st.Sent)/float64(st.Written), "crossed/written")
					}
				})
			}
		}
	}
}
