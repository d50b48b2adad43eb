// A real OpenID provider on loopback: node provider.mjs PORT REDIRECT_URI. Anybody may sign in, with any password.
import { Provider } from "oidc-provider";

const [port, redirectUri] = process.argv.slice(2);
const groups = { ada: ["staff", "crm-admins"], vic: ["crm-readers"] };

const provider = new Provider(`http://127.0.0.1:${port}`, {
  clients: [{ client_id: "crm-export", client_secret: "geheim", redirect_uris: [redirectUri] }],
  claims: { openid: ["sub"], email: ["email"], profile: ["name", "groups"] },
  pkce: { required: () => true },
  findAccount: (_, id) => ({
    accountId: id,
    claims: () => ({ sub: id, email: `${id}@example.com`, name: id, groups: groups[id] ?? [] }),
  }),
});
provider.listen(Number(port), "127.0.0.1", () => console.log("ready"));
