// An OpenID provider that demands PKCE, for the tests of signing in elsewhere.
// OIDC_PROVIDER names the package's folder; PORT and REDIRECT_URIS are what it serves.
import { pathToFileURL } from 'node:url';

const { Provider } = await import(pathToFileURL(`${process.env.OIDC_PROVIDER}/lib/index.js`));
const port = Number(process.env.PORT);
const redirectUris = process.env.REDIRECT_URIS.split(' ');

const provider = new Provider(`http://127.0.0.1:${port}`, {
  clients: [
    {
      client_id: 'basic',
      client_secret: 'a secret: with+signs%',
      token_endpoint_auth_method: 'client_secret_basic',
      redirect_uris: redirectUris,
    },
    {
      client_id: 'post',
      client_secret: 'another secret',
      token_endpoint_auth_method: 'client_secret_post',
      redirect_uris: redirectUris,
    },
    { client_id: 'public', token_endpoint_auth_method: 'none', redirect_uris: redirectUris },
  ],
  clientAuthMethods: process.env.METHODS.split(' '),
  pkce: { required: () => true },
  cookies: { keys: ['for tests only'] },
  claims: { openid: ['sub'], email: ['email', 'email_verified'], profile: ['name'] },
  findAccount: async (context, id) => ({
    accountId: id,
    claims: async () => ({
      sub: id,
      name: `${id} of Node`,
      email: `${id}@example.com`,
      email_verified: !id.startsWith('unverified'),
    }),
  }),
});
provider.listen(port, '127.0.0.1');
