package worker

import (
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/intervengine/webhooks/models"
)

func TestCompany(t *testing.T) {
	t.Parallel()
	began := time.Now()
	company := func(n int) []claim {
		all := make([]claim, n)
		for i := range all {
			all[i].Claim = &models.Claim{WebhookID: "w", DeliveryID: strconv.Itoa(i), CreatedAt: began.Add(time.Duration(i))}
		}
		together(all)
		return all
	}
	for name, test := range map[string]struct {
		come, leave []int
		want        []string
		after       time.Duration
	}{
		"the oldest first":           {come: []int{3, 1, 2, 0}, want: []string{"0", "1", "2", "3"}},
		"some do not come":           {come: []int{3, 1}, leave: []int{0, 2}, want: []string{"1", "3"}},
		"nobody waits for long":      {come: []int{3, 1}, leave: []int{2}, want: []string{"1", "3"}, after: companyWait},
		"who comes later goes alone": {come: []int{3, 2, -1, 0}, leave: []int{1}, want: []string{"2", "3", "0"}, after: companyWait},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				all, start := company(4), time.Now()
				var took []string
				for _, n := range test.leave {
					all[n].member.leave()
				}
				for _, n := range test.come {
					if n < 0 {
						time.Sleep(companyWait)
						synctest.Wait()
						continue
					}
					all[n].member.inTurn(all[n].Claim, func() { took = append(took, all[n].DeliveryID) })
				}
				if test.after > 0 {
					time.Sleep(time.Until(start.Add(companyWait)))
				}
				synctest.Wait()
				assert.Equal(t, test.want, took)
				for _, c := range all {
					c.member.leave()
				}
			})
		})
	}
}
