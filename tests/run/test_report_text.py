from dcgan_jax.run.report_text import escape, render_table


def test_escape_markup_and_lines_become_text():
    assert escape("<b>\n& 'x'") == "&lt;b&gt; &amp; &#x27;x&#x27;"
    assert escape(("color", 1)) == "color, 1"
    assert escape("x" * 400) == "x" * 300


def test_render_table_escapes_every_cell():
    html = render_table([("<a>", 1)], ("<h>", "n"))
    assert html == (
        "<div class=wide><table><tr><th>&lt;h&gt;</th><th>n</th></tr><tr><td>&lt;a&gt;</td><td>1</td></tr></table></div>"
    )
