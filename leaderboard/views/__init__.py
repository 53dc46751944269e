"""The pages. Streamlit runs these files as scripts; everything worth testing alone lives one folder up."""
