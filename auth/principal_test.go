package auth_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/intervengine/webhooks/auth"
	"github.com/intervengine/webhooks/models"
)

func TestScopes(t *testing.T) {
	t.Parallel()
	const (
		read, manage, emit, admin = models.ScopeRead, models.ScopeManage, models.ScopeEmit, models.ScopeAdmin
	)
	tests := map[string]struct {
		has  []models.Scope
		may  []models.Scope
		mayn []models.Scope
	}{
		"none":            {nil, nil, []models.Scope{read, manage, emit, admin}},
		"READ":            {[]models.Scope{read}, []models.Scope{read}, []models.Scope{manage, emit, admin}},
		"MANAGE":          {[]models.Scope{manage}, []models.Scope{read, manage}, []models.Scope{emit, admin}},
		"EMIT":            {[]models.Scope{emit}, []models.Scope{emit}, []models.Scope{read, manage, admin}},
		"ADMIN":           {[]models.Scope{admin}, []models.Scope{read, manage, emit, admin}, nil},
		"READ and EMIT":   {[]models.Scope{read, emit}, []models.Scope{read, emit}, []models.Scope{manage, admin}},
		"MANAGE and EMIT": {[]models.Scope{manage, emit}, []models.Scope{read, manage, emit}, []models.Scope{admin}},
		"unknown scope":   {[]models.Scope{"ROOT"}, nil, []models.Scope{read, manage, emit, admin, "ROOT", ""}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := &auth.Principal{Scopes: tt.has}
			for _, s := range tt.may {
				require.True(t, p.Has(s), s)
			}
			for _, s := range tt.mayn {
				require.False(t, p.Has(s), s)
			}
		})
	}
	require.False(t, (*auth.Principal)(nil).Has(read))
}

func TestTenantFor(t *testing.T) {
	t.Parallel()
	acme, other, empty := "acme", "other", ""
	tests := map[string]struct {
		own, named *string
		want       string
		err        error
	}{
		"platform names none":       {nil, nil, models.DefaultTenant, nil},
		"platform names one":        {nil, &acme, "acme", nil},
		"tenant names none":         {&acme, nil, "acme", nil},
		"tenant names itself":       {&acme, &acme, "acme", nil},
		"tenant names another":      {&acme, &other, "", auth.ErrForbiddenTenant},
		"tenant names the empty":    {&acme, &empty, "", auth.ErrForbiddenTenant},
		"platform names nonsense":   {nil, &empty, "", nil},
		"default is like any other": {&other, new(models.DefaultTenant), "", auth.ErrForbiddenTenant},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := &auth.Principal{Tenant: tt.own}
			got, err := p.TenantFor(tt.named)
			require.ErrorIs(t, err, tt.err)
			require.Equal(t, tt.want, got)
		})
	}
}

func TestReach(t *testing.T) {
	t.Parallel()
	require.Equal(t, models.Reach{All: true}, (&auth.Principal{}).Reach())
	require.Equal(t, models.Reach{Tenant: "acme"}, (&auth.Principal{Tenant: new("acme")}).Reach())
}

func TestValidTenant(t *testing.T) {
	t.Parallel()
	for _, good := range []string{"a", "default", "Acme Inc.", "änderung", "租户", strings.Repeat("é", 100), "a/b:c"} {
		require.True(t, auth.ValidTenant(good), good)
	}
	for _, bad := range []string{"", " a", "a ", "a\nb", "a\x00", "a\u00a0b", "\u202eabc", "\xff", strings.Repeat("a", 101)} {
		require.False(t, auth.ValidTenant(bad), "%q", bad)
	}
}

func TestContext(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	_, ok := auth.FromContext(ctx)
	require.False(t, ok)
	require.ErrorIs(t, auth.ErrFromContext(ctx), auth.ErrNoCredentials)

	_, ok = auth.FromContext(auth.WithPrincipal(ctx, nil))
	require.False(t, ok)

	p := &auth.Principal{ID: "key_x"}
	with := auth.WithPrincipal(ctx, p)
	got, ok := auth.FromContext(with)
	require.True(t, ok)
	require.Same(t, p, got)
	require.NoError(t, auth.ErrFromContext(with))
}
