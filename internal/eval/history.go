package eval

import (
	"context"
	"fmt"
	"time"
)

// historyExperiment: what a failover costs when much has been sent already.
func historyExperiment() experiment {
	return experiment{
		name: "history", title: "Recovery against the length of the history", kind: medians, logX: true,
		x: "sent before the server was killed (MiB)", y: "longest pause at the client (ms)",
		text: "Under `log` the server's successor begins with the first request, and sends again all that the client has: message logging, whose recovery grows with the history. " +
			"Under `hot` a second server has followed all along: primary/backup, whose recovery does not.",
		runs: func(o options) (all []run) {
			for _, mib := range pick(o, []int64{1, 8, 64}, []int64{1, 4, 16, 64, 256}) {
				for _, m := range []mode{logged, hot} {
					for i := range o.times(1, 5) {
						all = append(all, run{name: fmt.Sprintf("%s, %d MiB, %d", m.name, mib, i+1), cost: episodeCost + time.Duration(mib)*20*time.Millisecond,
							do: func(ctx context.Context, w *world) ([]Sample, error) {
								e, err := w.episode(ctx, m, serverKilled, mib<<20)
								if err != nil {
									return nil, err
								}
								if !e.result.Intact {
									return nil, fmt.Errorf("the connection was lost: %s", e.result.Error)
								}
								return []Sample{{Series: m.name, Run: i, X: float64(mib), Y: ms(e.gap())}}, nil
							}})
					}
				}
			}
			return all
		},
	}
}
