// The token that the page was given in this tab opens the reference's "Try it out" as well.
const reference = SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#reference",
  deepLinking: true,
  validatorUrl: null,
  onComplete: () => {
    const token = sessionStorage.getItem("vitalstream.token");
    if (token) reference.preauthorizeApiKey("HTTPBearer", token);
  },
});
