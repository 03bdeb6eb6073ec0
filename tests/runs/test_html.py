"""Elements of a page: what is text is escaped, and a link leads nowhere else."""

from lightkeras.runs.html import Html, page, tag


def test_text_is_escaped_and_html_is_left():
    inner = tag("b", "<script>alert('1')</script> & more")
    assert inner == "<b>&lt;script&gt;alert(&#x27;1&#x27;)&lt;/script&gt; &amp; more</b>"
    assert tag("p", inner, " & ", 3) == f"<p>{inner} &amp; 3</p>"
    assert isinstance(inner, Html)


def test_attributes_are_escaped():
    assert tag("p", class_='a" onclick="b') == '<p class="a&quot; onclick=&quot;b"></p>'


def test_elements_without_content_have_no_end():
    assert tag("img", src="a", alt="") == '<img src="a" alt="">'


def test_a_link_begins_in_the_folder_of_the_page_whatever_its_name():
    assert tag("a", "x", href="javascript:alert(1)") == '<a href="./javascript%3Aalert%281%29">x</a>'
    assert tag("a", "x", href="a b/#1?.html") == '<a href="./a%20b/%231%3F.html">x</a>'


def test_a_page_forbids_the_browser_to_load_or_run_anything():
    made = page("<title>", [tag("p", "text")])
    assert made.startswith('<!DOCTYPE html>\n<html lang="en">')
    assert "<title>&lt;title&gt;</title>" in made
    assert "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\"" in made
    assert "<main><p>text</p></main>" in made
