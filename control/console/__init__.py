"""The web console: settings, exports and export errors for the people who own the CRM. A face on the façade."""
