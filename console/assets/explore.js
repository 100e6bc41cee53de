// Opens GraphiQL on the server's own API. A signed-in browser is known by its session cookie; a
// key can also be given in GraphiQL's header editor.
(() => {
  const first = `# Welcome. Sign in at /login with an API key, or put it below under Headers:
#   {"Authorization": "Bearer iwk_…"}
query Deliveries {
  viewer { tenant scopes }
  deliveries(first: 5) {
    nodes { id eventType status attemptCount webhook { name } lastAttempt { outcome response { status } } }
  }
}
`;
  const fetcher = GraphiQL.createFetcher({ url: "/graphql" });
  const root = ReactDOM.createRoot(document.getElementById("graphiql"));
  root.render(React.createElement(GraphiQL, { fetcher, defaultQuery: first, shouldPersistHeaders: false }));
})();
