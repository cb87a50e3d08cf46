package elastic_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/farandole-ml/farandole/elastic"
)

func TestVerifyLedger(t *testing.T) {
	for _, c := range []struct {
		name  string
		terms []elastic.Term
		upTo  elastic.Step
		want  string
	}{
		{"nothing done", nil, 0, ""},
		{"one after the other", []elastic.Term{{Generation: 1, First: 1, Last: 5}, {Generation: 3, First: 6, Last: 9}}, 9, ""},
		{"a term without steps", []elastic.Term{{Generation: 1, First: 1, Last: 0}, {Generation: 2, First: 1, Last: 9}}, 9, ""},
		{"from an earlier run's checkpoint", []elastic.Term{{First: 1, Last: 50}, {Generation: 1, First: 51, Last: 60}}, 60, ""},
		{"a step twice", []elastic.Term{{Generation: 1, First: 1, Last: 5}, {Generation: 2, First: 5, Last: 9}}, 9, "generation 2 starts at step 5, not at 6"},
		{"a step lost", []elastic.Term{{Generation: 1, First: 1, Last: 5}, {Generation: 2, First: 7, Last: 9}}, 9, "generation 2 starts at step 7, not at 6"},
		{"the first lost", []elastic.Term{{Generation: 1, First: 2, Last: 5}}, 5, "starts at step 2, not at 1"},
		{"too short", []elastic.Term{{Generation: 1, First: 1, Last: 5}}, 6, "it ends at step 5, not at 6"},
		{"too long", []elastic.Term{{Generation: 1, First: 1, Last: 7}}, 6, "it ends at step 7, not at 6"},
		{"backwards", []elastic.Term{{Generation: 1, First: 1, Last: -3}}, 0, "before it starts"},
		{"generations mixed up", []elastic.Term{{Generation: 2, First: 1, Last: 5}, {Generation: 1, First: 6, Last: 9}}, 9, "generation 1 comes after generation 2"},
		{"a generation twice", []elastic.Term{{Generation: 2, First: 1, Last: 5}, {Generation: 2, First: 6, Last: 9}}, 9, "generation 2 comes after generation 2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := elastic.VerifyLedger(c.terms, c.upTo)
			if c.want == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, c.want)
		})
	}
}
