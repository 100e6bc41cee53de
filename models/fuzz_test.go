package models_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/models"
)

// Whatever is taken for an id is the one spelling of what NewID makes.
func FuzzID(f *testing.F) {
	delivery := models.NewID(models.PrefixDelivery)
	for _, seed := range []string{
		delivery, models.AttemptID(delivery, 1), models.NewID(models.PrefixWebhook), "wh_", "dlv_00000000000000000000000000", "dlv_vvvvvvvvvvvvvvvvvvvvvvvvvv",
		"att_00000000000000000000000000_2147483648", "att_00000000000000000000000000_01", "att_00000000000000000000000000_-1", "att_00000000000000000000000000_99999999999999999999", "",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, id string) {
		for _, prefix := range []string{models.PrefixDelivery, models.PrefixWebhook} {
			if models.ValidID(prefix, id) {
				require.Len(t, id, len(prefix)+26)
				require.Equal(t, strings.ToLower(id), id)
				require.NotContains(t, id, "\x00")
				require.False(t, models.ValidID(models.PrefixEvent, id), "of one kind alone")
			}
		}
		if deliveryID, number, ok := models.ParseAttemptID(id); ok {
			require.True(t, models.ValidID(models.PrefixDelivery, deliveryID))
			require.Positive(t, number)
			require.LessOrEqual(t, number, 1<<31-1, "no more than a column has room for")
			require.Equal(t, id, models.AttemptID(deliveryID, number))
		}
	})
}

// A cursor that is taken is one that the list wrote.
func FuzzCursor(f *testing.F) {
	delivery := models.NewID(models.PrefixDelivery)
	f.Add(models.DeliveryCursor("", delivery))
	f.Add(models.DeliveryCursor("wh_x", delivery))
	for _, seed := range []string{"", "====", "MR9kZWxpdmVyaWVzHx8", "A", "\x00", "MR9kZWxpdmVyaWVzHx8\n", strings.Repeat("A", 5000)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, cursor string) {
		for _, parent := range []string{"", "wh_x"} {
			key, err := models.ParseDeliveryCursor(parent, cursor)
			if err != nil {
				require.ErrorIs(t, err, models.ErrInvalidCursor)
				continue
			}
			require.True(t, models.ValidID(models.PrefixDelivery, key))
			require.Equal(t, cursor, models.DeliveryCursor(parent, key))
		}
	})
}

// A feed's cursor that is taken says the same once it is written again.
func FuzzFeedCursor(f *testing.F) {
	for _, seed := range []string{"", "AWUAAAAAAA", "AWQAAAAAAAAAAA", "AWUB_wAAAAAAAQAAAAA", "\x00", strings.Repeat("_", 20_000)} {
		f.Add(seed)
	}
	for _, seed := range models.FeedCursors() {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, cursor string) {
		for _, kind := range []models.FeedKind{models.FeedEvent, models.FeedDelivery} {
			p, err := models.ParseFeedCursor(cursor, kind)
			if err != nil {
				require.ErrorIs(t, err, models.ErrInvalidCursor)
				continue
			}
			again, err := models.ParseFeedCursor(p.Cursor(kind), kind)
			require.NoError(t, err)
			require.Equal(t, p, again)
			for _, other := range []models.FeedKind{models.FeedEvent, models.FeedDelivery} {
				if other != kind {
					_, err = models.ParseFeedCursor(cursor, other)
					require.ErrorIs(t, err, models.ErrInvalidCursor, "of one feed alone")
				}
			}
		}
	})
}
