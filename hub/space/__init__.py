"""The page in the browser, on one's own machine or as a Gradio Space."""
