package main

import (
	"bytes"
	"net/http"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"

	"github.com/regfs/regfs/cache"
)

// metrics is what the daemon counts, for .regfs/metrics.
type metrics struct {
	registry *prometheus.Registry
	requests *prometheus.CounterVec
}

func newMetrics(store *cache.Cache) *metrics {
	m := &metrics{registry: prometheus.NewRegistry(), requests: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "regfs_requests_total", Help: "Requests to registries and their token servers, by method and status; 0 is none.",
	}, []string{"method", "status"})}
	m.registry.MustRegister(m.requests)
	stat := func(name, help string, value func(cache.Stats) int64) {
		m.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, func() float64 {
			return float64(value(store.Stats()))
		}))
	}
	stat("regfs_cache_hits_total", "Blobs and manifests that were complete on disk.", func(s cache.Stats) int64 { return s.Hits })
	stat("regfs_cache_misses_total", "Blobs and manifests that were not.", func(s cache.Stats) int64 { return s.Misses })
	stat("regfs_cache_fetches_total", "Transfers of blobs begun.", func(s cache.Stats) int64 { return s.Fetches })
	stat("regfs_cache_fetched_bytes_total", "Bytes of blobs fetched.", func(s cache.Stats) int64 { return s.BytesFetched })
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "regfs_cache_disk_bytes", Help: "What the cache takes on disk, approximately; 0 before the first transfer.",
	}, func() float64 { return float64(store.Stats().BytesOnDisk) }))
	return m
}

// text is everything in the text exposition format.
func (m *metrics) text() []byte {
	families, err := m.registry.Gather()
	if err != nil {
		return []byte("# " + err.Error() + "\n")
	}
	var b bytes.Buffer
	enc := expfmt.NewEncoder(&b, expfmt.NewFormat(expfmt.TypeTextPlain))
	for _, f := range families {
		if err := enc.Encode(f); err != nil {
			return []byte("# " + err.Error() + "\n")
		}
	}
	return b.Bytes()
}

// count has the requests that a transport carries counted.
func (m *metrics) count(t http.RoundTripper) http.RoundTripper { return &counted{t, m.requests} }

type counted struct {
	http.RoundTripper
	requests *prometheus.CounterVec
}

func (c *counted) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := c.RoundTripper.RoundTrip(r)
	status := 0
	if err == nil {
		status = resp.StatusCode
	}
	c.requests.WithLabelValues(r.Method, strconv.Itoa(status)).Inc()
	return resp, err
}

// CloseIdleConnections closes those of the transport.
func (c *counted) CloseIdleConnections() {
	(&http.Client{Transport: c.RoundTripper}).CloseIdleConnections()
}
