package worker

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// enter takes what a task gets that wants n places and is content with some of them.
func enter(ctx context.Context, r *room, n int) (int, error) {
	v := r.task("")
	defer v.leave()
	return v.enter(ctx, n)
}

// The rest of a task's deliveries is older than those of the next task.
func TestRoom_ATaskKeepsItsTurn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRoom(4)
		first := r.task("")
		got, err := first.enter(t.Context(), 6)
		require.NoError(t, err)
		require.Equal(t, 4, got)
		entered := make(chan int, 1)
		go func() {
			got, _ := enter(t.Context(), r, 1)
			entered <- got
		}()
		synctest.Wait()
		r.leave(1)
		synctest.Wait()
		require.Empty(t, entered, "the first claims, and wants two more")
		got, err = first.enter(t.Context(), 2)
		require.NoError(t, err)
		require.Equal(t, 1, got)
		r.leave(2)
		synctest.Wait()
		require.Empty(t, entered)
		got, err = first.enter(t.Context(), 1)
		require.NoError(t, err)
		require.Equal(t, 1, got)
		require.Equal(t, 1, <-entered)

		given := r.task("")
		waiting, stop := context.WithCancel(t.Context())
		stop()
		_, err = given.enter(waiting, 1)
		require.Error(t, err)
		given.leave()
		r.leave(1)
		got, err = enter(t.Context(), r, 1)
		require.NoError(t, err)
		require.Equal(t, 1, got, "who has left holds nobody up")
	})
}

// Tasks that come about together are served in the order of their deliveries.
func TestRoom_TheOldestOfTheTasksThatComeTogether(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRoom(1)
		require.Equal(t, 1, r.try(1))
		var order []string
		come := func(oldest string) {
			v := r.task(oldest)
			go func() {
				defer v.leave()
				_, err := v.enter(t.Context(), 1)
				assert.NoError(t, err)
				order = append(order, oldest)
			}()
			synctest.Wait()
		}
		for _, oldest := range []string{"5", "3", "4"} {
			come(oldest)
		}
		time.Sleep(taskOrder + time.Millisecond)
		for _, oldest := range []string{"2", "6", "1"} {
			come(oldest) // too late to go before those
		}
		for range 6 {
			r.leave(1)
			synctest.Wait()
		}
		assert.Equal(t, []string{"3", "4", "5", "1", "2", "6"}, order)
	})
}

// A task that waits for all of its places at once would leave those empty that come free meanwhile.
func TestRoom_ATaskTakesWhatIsFree(t *testing.T) {
	t.Parallel()
	r := newRoom(4)
	got, err := enter(t.Context(), r, 3)
	require.NoError(t, err)
	require.Equal(t, 3, got)
	got, err = enter(t.Context(), r, 32)
	require.NoError(t, err)
	require.Equal(t, 1, got)
	require.Zero(t, r.try(1))
	r.leave(2)
	require.Equal(t, 2, r.try(5))
}

// Once somebody has come without a task, tasks leave room for the next ones.
func TestRoom_KeepsAPartForThoseWithoutATask(t *testing.T) {
	t.Parallel()
	r := newRoom(2 * keptPart)
	got, err := enter(t.Context(), r, 3*keptPart)
	require.NoError(t, err)
	require.Equal(t, 2*keptPart, got, "a process that has no such ones gives tasks all of its places")
	r.leave(got)
	require.Equal(t, 1, r.try(1))
	got, err = enter(t.Context(), r, 3*keptPart)
	require.NoError(t, err)
	require.Equal(t, 2*keptPart-3, got)
	over, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = enter(over, r, 1)
	require.Error(t, err)
	require.Equal(t, 2, r.try(3), "though tasks wait")
	r.leave(got + 3)
	require.NoError(t, r.empty(t.Context()))
}

// Who holds a slot of its webhook and a claim that grows old does not wait behind tasks.
func TestRoom_WhoComesBackGoesFirst(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRoom(1)
		require.Equal(t, 1, r.try(1))
		var order []string
		wait := func(who string, in func() error) {
			go func() {
				if err := in(); err != nil {
					who += " gave up"
				}
				order = append(order, who)
			}()
			synctest.Wait()
		}
		task := func(ctx context.Context) func() error {
			return func() error {
				_, err := enter(ctx, r, 2)
				return err
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		wait("first", task(ctx))
		wait("second", task(t.Context()))
		wait("back", func() error { return r.comeBack(t.Context()) })
		cancel()
		synctest.Wait()
		for range 2 {
			r.leave(1)
			assert.Zero(t, r.try(1), "others wait")
			synctest.Wait()
		}
		assert.Equal(t, []string{"first gave up", "back", "second"}, order)
		r.leave(1)
		require.NoError(t, r.empty(t.Context()))
	})
}
