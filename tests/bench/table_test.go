package main

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/regfs/regfs/tests/registries"
)

func TestMedian(t *testing.T) {
	for _, test := range []struct {
		values []float64
		want   float64
	}{
		{[]float64{3}, 3}, {[]float64{4, 1}, 2.5}, {[]float64{9, 1, 2}, 2}, {[]float64{8, 1, 3, 2}, 2.5},
	} {
		if got := median(test.values); got != test.want {
			t.Errorf("median of %v: %v, want %v", test.values, got, test.want)
		}
	}
}

func TestRowsCompareRunsOfTheSameRound(t *testing.T) {
	c := contest{name: "a thing", goal: 1.5, bytes: 2e9, contestants: []contestant{{name: "regfs"}, {name: "peer"}, {name: "other"}}}
	second := func(s ...float64) []sample {
		var all []sample
		for _, seconds := range s {
			took := time.Duration(seconds * float64(time.Second))
			all = append(all, sample{wall: took, cpu: took, registry: took / 2})
		}
		return all
	}
	got := samples{second(1, 4, 3), second(1, 2, 3), second(2, 4, 6)}.rows(c)
	want := `| a thing | regfs | 3.000 (1.000–4.000) | 1.00 (1.00–2.00) | ≤ 1.50: met | 1.50 | 0.75 |
|  | peer | 2.000 (1.000–3.000) |  |  | 1.00 | 0.50 |
|  | other | 4.000 (2.000–6.000) | 2.00 (2.00–2.00) |  | 2.00 | 1.00 |
`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestAMissedGoalIsSaid(t *testing.T) {
	if got, want := verdict("≤ 2", false), "≤ 2: **missed**"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestContestantsTakeTurnsAfterAWarmUp(t *testing.T) {
	var turns string
	one := func(name string) contestant {
		return contestant{name, func() sample {
			turns += name
			return sample{wall: time.Duration(len(turns))}
		}}
	}
	ended := false
	c := contest{contestants: []contestant{one("A"), one("B")}, end: func() { ended = true }}
	code := registries.Main(func(tb registries.TB) {
		got := (&bench{t: tb, runs: 2}).compete(c)
		want := samples{{{wall: 3}, {wall: 5}}, {{wall: 4}, {wall: 6}}}
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(sample{})); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
	if turns != "ABABAB" || !ended || code != 0 {
		t.Errorf("turns %s, ended %v, exit code %d", turns, ended, code)
	}
}
