package batch_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/intervengine/webhooks/batch"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type (
	results = []batch.Result[int]
	options = batch.Options[int, int]
)

// double answers twice the item, and an error for negative ones.
func double(_ context.Context, items []int) (results, error) {
	answers := make(results, len(items))
	for i, item := range items {
		answers[i].Value = item * 2
		if item < 0 {
			answers[i].Err = errNegative
		}
	}
	return answers, nil
}

var errNegative = errors.New("negative")

// gate is a flush that tells when it began and waits to be let through.
type gate struct {
	began   chan []int
	release chan struct{}
}

func newGate() *gate { return &gate{make(chan []int), make(chan struct{})} }

func (g *gate) flush(ctx context.Context, items []int) (results, error) {
	g.began <- slices.Clone(items)
	select {
	case <-g.release:
		return double(ctx, items)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func start(t testing.TB, o options) *batch.Committer[int, int] {
	t.Helper()
	c := batch.New(o)
	c.Start()
	t.Cleanup(func() { require.NoError(t, c.Stop(context.Background())) })
	return c
}

func TestDoAnswersEachCallerItsOwn(t *testing.T) {
	t.Parallel()
	c := start(t, options{Flush: double, MaxBatch: 7, Flushers: 3})
	var callers sync.WaitGroup
	for i := range 500 {
		callers.Go(func() {
			value, err := c.Do(t.Context(), i-10)
			if i < 10 {
				assert.ErrorIs(t, err, errNegative)
				return
			}
			assert.NoError(t, err)
			assert.Equal(t, (i-10)*2, value)
		})
	}
	callers.Wait()
}

func TestEverythingThatWaitsIsOneBatch(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newGate()
		c := start(t, options{Flush: g.flush, MaxBatch: 4})
		var got []int
		submit := func(item int) {
			require.NoError(t, c.Submit(item, func(value int, err error) {
				require.NoError(t, err)
				got = append(got, value)
			}))
		}
		submit(1)
		require.Equal(t, []int{1}, <-g.began, "a caller alone does not wait for others")
		for i := 2; i <= 7; i++ {
			submit(i)
		}
		synctest.Wait()
		require.Equal(t, 6, c.Waiting())
		g.release <- struct{}{}
		require.Equal(t, []int{2, 3, 4, 5}, <-g.began, "at most MaxBatch")
		g.release <- struct{}{}
		require.Equal(t, []int{6, 7}, <-g.began)
		g.release <- struct{}{}
		synctest.Wait()
		require.Equal(t, []int{2, 4, 6, 8, 10, 12, 14}, got)
	})
}

func TestDoIsWithdrawnBeforeItsBatchBegins(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newGate()
		c := start(t, options{Flush: g.flush, MaxWaiting: 1})
		require.NoError(t, c.Submit(1, func(int, error) {}))
		<-g.began
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := c.Do(ctx, 2)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.NotErrorIs(t, err, batch.ErrOutcomeUnknown)
		require.Zero(t, c.Waiting(), "its place is free again")
		require.NoError(t, c.Submit(3, func(int, error) {}))
		g.release <- struct{}{}
		require.Equal(t, []int{3}, <-g.began, "a withdrawn item is never flushed")
		g.release <- struct{}{}
	})
}

func TestDoInABatchEndsWithOutcomeUnknown(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newGate()
		c := start(t, options{Flush: g.flush})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		outcome := make(chan error, 1)
		go func() {
			_, err := c.Do(ctx, 1)
			outcome <- err
		}()
		<-g.began
		err := <-outcome
		require.ErrorIs(t, err, batch.ErrOutcomeUnknown)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		g.release <- struct{}{}
	})
}

func TestDoWithAnEndedContextIsNotAccepted(t *testing.T) {
	t.Parallel()
	c := batch.New(options{Flush: double})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := c.Do(ctx, 1)
	require.ErrorIs(t, err, context.Canceled)
	require.NotErrorIs(t, err, batch.ErrOutcomeUnknown)
	require.Zero(t, c.Waiting())
}

func TestTooManyWaitingIsBusy(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newGate()
		c := start(t, options{Flush: g.flush, MaxWaiting: 2})
		require.NoError(t, c.Submit(1, func(int, error) {}))
		<-g.began
		require.NoError(t, c.Submit(2, func(int, error) {}))
		require.NoError(t, c.Submit(3, func(int, error) {}))
		require.ErrorIs(t, c.Submit(4, func(int, error) { t.Error("answered what was refused") }), batch.ErrBusy)
		_, err := c.Do(t.Context(), 5)
		require.ErrorIs(t, err, batch.ErrBusy)
		g.release <- struct{}{}
		require.Equal(t, []int{2, 3}, <-g.began)
		g.release <- struct{}{}
	})
}

func TestFaultsOfFlushFailTheirBatchAlone(t *testing.T) {
	t.Parallel()
	errWhole := errors.New("database away")
	c := start(t, options{Flush: func(ctx context.Context, items []int) (results, error) {
		switch items[0] {
		case 1:
			return nil, errWhole
		case 2:
			panic("poison")
		case 3:
			return results{}, nil
		}
		return double(ctx, items)
	}})
	_, err := c.Do(t.Context(), 1)
	require.ErrorIs(t, err, errWhole)

	_, err = c.Do(t.Context(), 2)
	var panicError *batch.PanicError
	require.ErrorAs(t, err, &panicError)
	require.ErrorIs(t, err, batch.ErrOutcomeUnknown)
	require.Equal(t, "poison", panicError.Value)
	require.Contains(t, string(panicError.Stack), "TestFaultsOfFlush")

	_, err = c.Do(t.Context(), 3)
	require.ErrorContains(t, err, "0 results for 1 items")
	require.ErrorIs(t, err, batch.ErrOutcomeUnknown)

	value, err := c.Do(t.Context(), 4)
	require.NoError(t, err, "the flusher lives")
	require.Equal(t, 8, value)
}

func TestStopFlushesWhatWaits(t *testing.T) {
	t.Parallel()
	var flushed []int
	c := batch.New(options{MaxBatch: 2, Flush: func(ctx context.Context, items []int) (results, error) {
		flushed = append(flushed, items...)
		return double(ctx, items)
	}})
	answered := make(chan int, 5)
	for i := range 5 { // accepted before Start
		require.NoError(t, c.Submit(i, func(value int, _ error) { answered <- value }))
	}
	c.Start()
	c.Start()
	require.NoError(t, c.Stop(t.Context()))
	require.Equal(t, []int{0, 1, 2, 3, 4}, flushed)
	require.Len(t, answered, 5)
	require.NoError(t, c.Stop(t.Context()), "idempotent")
	require.ErrorIs(t, c.Submit(6, nil), batch.ErrStopped)
	_, err := c.Do(t.Context(), 6)
	require.ErrorIs(t, err, batch.ErrStopped)
	c.Start()
}

func TestStopIsBoundedByItsContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newGate()
		c := batch.New(options{Flush: g.flush})
		c.Start()
		outcomes := make(chan error, 2)
		answer := func(_ int, err error) { outcomes <- err }
		require.NoError(t, c.Submit(1, answer))
		<-g.began
		require.NoError(t, c.Submit(2, answer))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		require.ErrorIs(t, c.Stop(ctx), context.DeadlineExceeded)
		require.Equal(t, time.Second, time.Since(began))
		require.ErrorIs(t, <-outcomes, batch.ErrStopped, "what waited was not flushed")
		require.ErrorIs(t, <-outcomes, context.Canceled, "the flush's context has ended")
		require.NoError(t, c.Stop(t.Context()))
	})
}

func TestStopWithoutStartAnswersWhatWaits(t *testing.T) {
	t.Parallel()
	c := batch.New(options{Flush: double})
	outcome := make(chan error, 1)
	require.NoError(t, c.Submit(1, func(_ int, err error) { outcome <- err }))
	require.NoError(t, c.Stop(t.Context()))
	require.ErrorIs(t, <-outcome, batch.ErrStopped)
}

func TestNewPanicsOnAProgrammersMistake(t *testing.T) {
	t.Parallel()
	require.Panics(t, func() { batch.New(options{}) })
	require.Panics(t, func() { batch.New(options{Flush: double, MaxBatch: -1}) })
}

// Every accepted item is flushed once or withdrawn, every caller gets one true
// answer, and what one caller hands in keeps its order.
func TestEveryItemIsFlushedOnceInOrder(t *testing.T) {
	t.Parallel()
	type key struct{ caller, number int }
	rapid.Check(t, func(t *rapid.T) {
		maxBatch := rapid.IntRange(1, 8).Draw(t, "max_batch")
		callers := rapid.IntRange(1, 12).Draw(t, "callers")
		items := rapid.IntRange(1, 15).Draw(t, "items")
		impatient := rapid.IntRange(0, 3).Draw(t, "impatient")
		flushed := map[key]int{}
		last := map[int]int{}
		c := batch.New(batch.Options[key, key]{MaxBatch: maxBatch, Flush: func(_ context.Context, batched []key) ([]batch.Result[key], error) {
			if len(batched) == 0 || len(batched) > maxBatch {
				t.Errorf("a batch of %d", len(batched))
			}
			answers := make([]batch.Result[key], len(batched))
			for i, item := range batched {
				flushed[item]++
				if last[item.caller] > item.number {
					t.Errorf("%v after number %d", item, last[item.caller])
				}
				last[item.caller] = item.number
				answers[i].Value = item
			}
			return answers, nil
		}})
		c.Start()
		withdrawn := make([]map[key]bool, callers)
		var group sync.WaitGroup
		for caller := range callers {
			withdrawn[caller] = map[key]bool{}
			group.Go(func() {
				for number := 1; number <= items; number++ {
					item := key{caller, number}
					ctx, cancel := context.WithCancel(context.Background())
					if caller < impatient {
						go cancel()
					}
					value, err := c.Do(ctx, item)
					cancel()
					switch {
					case err == nil && value != item:
						t.Errorf("%v was answered %v", item, value)
					case errors.Is(err, batch.ErrOutcomeUnknown) && errors.Is(err, context.Canceled):
					case errors.Is(err, context.Canceled):
						withdrawn[caller][item] = true
					case err != nil:
						t.Errorf("%v: %v", item, err)
					}
				}
			})
		}
		group.Wait()
		if err := c.Stop(context.Background()); err != nil {
			t.Fatal(err)
		}
		for caller := range callers {
			for number := 1; number <= items; number++ {
				item := key{caller, number}
				want := 1
				if withdrawn[caller][item] {
					want = 0
				}
				if flushed[item] != want {
					t.Errorf("%v was flushed %d times, must be %d", item, flushed[item], want)
				}
			}
		}
	})
}

func BenchmarkDo(b *testing.B) {
	c := start(b, options{Flush: double})
	b.ReportAllocs()
	b.SetParallelism(32)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := c.Do(context.Background(), 1); err != nil {
				b.Error(err)
			}
		}
	})
}

func TestDoAllKeepsTheOrderAndAnswersEach(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newGate()
		c := start(t, options{Flush: g.flush, MaxBatch: 3, MaxWaiting: 4})
		require.NoError(t, c.Submit(9, func(int, error) {}))
		<-g.began
		done := make(chan results)
		go func() { done <- c.DoAll(t.Context(), []int{1, -2, 3, 4, 5}) }()
		g.release <- struct{}{}
		require.Equal(t, []int{1, -2, 3}, <-g.began)
		g.release <- struct{}{}
		require.Equal(t, []int{4}, <-g.began, "the fifth found no room")
		g.release <- struct{}{}
		require.Equal(t, results{{Value: 2}, {Value: -4, Err: errNegative}, {Value: 6}, {Value: 8}, {Err: batch.ErrBusy}}, <-done)
		require.Empty(t, c.DoAll(t.Context(), nil))
	})
}

func TestDoAllEndsWithItsContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newGate()
		c := start(t, options{Flush: g.flush, MaxBatch: 1})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		done := make(chan results)
		go func() { done <- c.DoAll(ctx, []int{1, 2}) }()
		require.Equal(t, []int{1}, <-g.began)
		got := <-done
		require.ErrorIs(t, got[0].Err, batch.ErrOutcomeUnknown)
		require.ErrorIs(t, got[1].Err, context.DeadlineExceeded)
		require.NotErrorIs(t, got[1].Err, batch.ErrOutcomeUnknown, "withdrawn")
		require.Zero(t, c.Waiting())
		g.release <- struct{}{}
	})
}

// What is handed in together is flushed together, though a flusher is idle.
func TestSubmitAll_InOneBatch(t *testing.T) {
	t.Parallel()
	for range 200 {
		var batches [][]int
		c := batch.New(batch.Options[int, int]{Flush: func(_ context.Context, items []int) ([]batch.Result[int], error) {
			batches = append(batches, slices.Clone(items))
			return make([]batch.Result[int], len(items)), nil
		}})
		c.Start()
		var all sync.WaitGroup
		all.Add(5)
		accepted, err := c.SubmitAll([]int{0, 1, 2, 3, 4}, func(n, _ int, err error) {
			defer all.Done()
			assert.NoError(t, err)
		})
		require.NoError(t, err)
		require.Equal(t, 5, accepted)
		all.Wait()
		require.NoError(t, c.Stop(t.Context()))
		require.Equal(t, [][]int{{0, 1, 2, 3, 4}}, batches)
	}
}

// Where there is no room for all, the first ones are taken.
func TestSubmitAll_AsFarAsThereIsRoom(t *testing.T) {
	t.Parallel()
	c := batch.New(batch.Options[int, int]{MaxWaiting: 3, Flush: func(_ context.Context, items []int) ([]batch.Result[int], error) {
		return make([]batch.Result[int], len(items)), nil
	}})
	var answered []int
	accepted, err := c.SubmitAll([]int{0, 1, 2, 3, 4}, func(n, _ int, _ error) { answered = append(answered, n) })
	require.ErrorIs(t, err, batch.ErrBusy)
	require.Equal(t, 3, accepted)
	c.Start()
	require.NoError(t, c.Stop(t.Context()))
	require.Equal(t, []int{0, 1, 2}, answered)
}
