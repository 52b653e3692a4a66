"""Vocabulary of the synthetic text-to-SQL task: nouns, column names and cell values.

All of it was written for this project; none comes from Spider, WikiSQL or another data set.
A domain is one line, `noun[/plural]; label column:pool; text columns; number columns`. The
plural is derived where it is regular. Text columns take their cells from `TEXT_VALUES` (or, where
the name is not there, from invented words), number columns from `NUMBER_RANGES`.
"""

# Keywords of SQLite that a short name could be.
SHORT_KEYWORDS = frozenset(
    "add all and asc case cast desc drop each else end fail for from full glob into join key last "
    "left like next not null only over plan row rows set temp then ties view when with".split()
)
PLURAL_KEYWORDS = frozenset(("exists", "values"))

TRAIN_DOMAINS = """
singer; name:person; country genre city language; age birth_year albums net_worth
author; name:person; country genre language; age books awards birth_year
book; title:title; genre language publisher; pages price year copies
movie; title:title; genre country director_style; year budget gross rating
student; name:person; major city gender; age score credits gpa_points
teacher; name:person; subject city degree; age salary experience
course; title:title; subject semester building; credits enrollment hours
employee; name:person; department city gender position; age salary experience bonus
department; name:word; city building; budget staff floor
company/companies; name:company; industry country city; revenue employees founded_year profit
restaurant; name:title; cuisine city; rating seats price opened_year
hotel; name:title; city stars_class; rooms price rating floors
city/cities; name:place; country region climate; population area elevation
country/countries; name:place; continent language currency; population area gdp
airport; name:place; city country; runways passengers gates elevation
flight; code:code; airline origin destination; distance price duration seats
car; model:word; brand color fuel; year price horsepower mileage weight
player; name:person; team position country; age height goals weight matches
team; name:company; city league color; wins losses points founded_year
game; title:title; genre platform publisher; year price rating sales
song; title:title; genre language; duration year plays rating
album; title:title; genre label_name country; year sales tracks
artist; name:person; country style gender; age works birth_year
museum; name:place; city country theme; visitors opened_year area
painting; title:title; style medium country; year price height width
patient; name:person; gender city blood_type; age weight height visits
doctor; name:person; specialty city; age salary experience patients
hospital; name:place; city region; beds staff budget
product; name:title; category brand color; price stock weight rating
customer; name:person; city country gender membership; age points balance
purchase; code:code; status city payment; amount quantity discount year
store; name:company; city region category; sales area staff
dog; name:first; breed color city; age weight height
cat; name:first; breed color; age weight lives
farm; name:place; region crop; area workers income
tree; name:word; species park_name climate; height age width
river; name:place; country region; length depth width
mountain; name:place; country region; height climbers year
bridge; name:place; city material; length width opened_year
train; code:code; operator origin destination; speed seats price distance
lawyer; name:person; firm city specialty; age cases fee
apartment; code:code; city building status; rooms rent area floor
concert; title:title; city venue genre; year attendance price
club; name:company; city theme; members budget founded_year
phone; model:word; brand color; price storage weight year
recipe; title:title; cuisine category author_name; calories minutes servings
insurer; name:company; city region; policies revenue employees
driver; name:person; city license gender; age trips rating
"""

HELD_OUT_DOMAINS = """
ship; name:title; home_port type country; tonnage speed built_year crew
library/libraries; name:place; city district; members shelves opened_year
zoo; name:place; city country; animals area visitors
planet; name:word; galaxy type; mass radius moons
actor; name:person; nationality studio gender; age films oscars
wine; name:title; grape region color; price vintage score
camera; model:word; brand sensor; price megapixels weight
festival; title:title; city month genre; attendance budget year
warehouse; name:company; city manager_name; capacity shelves rent
soldier; name:person; rank regiment country; age medals service_years
"""

# (parent, child): every child row belongs to one parent row.
TRAIN_RELATIONS = """
author book, singer song, singer album, company employee, department employee, artist painting,
hospital doctor, doctor patient, customer purchase, team player, city hotel, city restaurant,
country city, airport flight, teacher course, museum painting, club concert, store product, farm
tree, company phone, country river, hotel employee, customer dog, city apartment
"""
HELD_OUT_RELATIONS = (
    "zoo actor, festival wine, library camera, ship soldier, warehouse wine, actor ship"
)

# Nouns and columns that only the mixed (domain-free) training databases use.
EXTRA_NOUNS = """
machine engine village island lake road ticket review letter chef pilot nurse judge poem pet
horse bird fish plant flower toy shoe dress chair desk lamp computer server network printer
laptop robot battery satellite rocket theater school college exam prize medal match league coach
referee stadium race bicycle truck bus station journey tour guide guest visitor member donor
volunteer project task meeting event contract invoice payment loan account bank branch policy
claim vehicle accident office room floor house garden field mine factory supplier shipment
parcel package
""".split()
EXTRA_TEXTS = """
kind origin_country owner_name source state county town street grade level unit shape pattern
sector division group_name category_name supplier_name mode format season weekday condition role
service_type main_color nickname surname address maker family party religion field_name zone
""".split()
EXTRA_NUMBERS = """
cost total count_of_items volume temperature pressure voltage power capacity_used debt tax
interest score_points rank_number level_number pages_read steps calls messages errors users
followers likes votes seats_sold laps kills hits runs shots games_played days weeks months
hours_worked minutes_late size depth_m weight_kg height_cm length_km age_years start_year
end_year death_year launch_year
""".split()

TEXT_VALUES = """
country: France, Japan, Brazil, Spain, Italy, Canada, Egypt, Peru, India, Norway, Kenya, Chile,
  Sweden, Mexico, Turkey, Poland, Ireland, Greece, South Korea, New Zealand, United States,
  China
city: Paris, Tokyo, London, Berlin, Madrid, Rome, Oslo, Lima, Cairo, Boston, Chicago, Dallas,
  New York, Los Angeles, Toronto, Vienna, Dublin, Prague, Seattle, Denver, San Diego, Lisbon
genre: rock, jazz, pop, folk, drama, comedy, horror, fantasy, romance, science fiction, mystery,
  classical, action, history
language: English, French, Spanish, German, Hindi, Arabic, Russian, Italian, Korean, Greek
color: red, blue, green, black, white, silver, yellow, brown, gray, orange, pink, dark blue
gender: male, female
major: physics, biology, history, law, music, chemistry, computer science, economics
subject: math, art, history, physics, biology, geography, English, music, chemistry
department: sales, marketing, finance, research, support, legal, design, human resources
position: manager, engineer, clerk, director, analyst, forward, defender, goalkeeper, assistant
industry: banking, retail, software, energy, mining, media, oil and gas, transport, food
cuisine: Italian, Mexican, Thai, Indian, Chinese, French, Greek, Japanese, Turkish
region: north, south, east, west, central, coast, north east, south west, highlands
continent: Asia, Africa, Europe, Oceania, North America, South America
climate: dry, wet, cold, tropical, mild, polar
status: open, closed, pending, active, shipped, cancelled, new, sold
category: toys, tools, books, sports, garden, clothing, music, food, furniture
fuel: petrol, diesel, electric, hybrid
material: steel, stone, wood, concrete, iron, glass
type: small, large, standard, special, military, cargo, mixed, giant, dwarf
payment: cash, card, check, transfer
semester: spring, summer, autumn, winter
season: spring, summer, autumn, winter
month: January, March, April, June, July, September, October, December
weekday: Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday
membership: gold, silver, basic, premium, trial
specialty: surgery, cardiology, tax law, family law, pediatrics, neurology, criminal law
style: modern, abstract, realist, baroque, gothic, cubist, pop art
rank: private, sergeant, captain, major, colonel, general
blood_type: A, B, AB, O
currency: euro, dollar, peso, pound, yen, krone, rupee
degree: bachelor, master, doctorate, diploma
"""

NUMBER_RANGES = {
    "age": (18, 90), "year": (1950, 2024), "price": (5, 900), "salary": (20, 200),
    "rating": (10, 99), "height": (50, 250),
    "weight": (5, 300), "score": (20, 100), "population": (100, 9000),
    "area": (20, 5000), "distance": (50, 6000), "budget": (10, 990), "floor": (1, 60),
    "revenue": (10, 9900), "experience": (1, 45), "seats": (20, 500), "duration": (30, 600),
    "pages": (50, 900), "speed": (40, 350), "length": (10, 7000), "attendance": (100, 9900),
    "visitors": (100, 9900), "passengers": (100, 9900), "sales": (10, 9900), "elevation": (1, 4000),
    "vintage": (1950, 2024),
}  # fmt: skip
DEFAULT_RANGE = (1, 120)

FIRST_NAMES = """
Anna Ben Carla David Emma Felix Grace Hugo Ines Jack Karen Leo Maria Nina Oscar Paul Quinn Rosa
Sam Tina Umar Vera Will Xena Yuri Zoe Alice Bruno Clara Diego Elena Frank Greta Henry Iris John
Kate Lucas Mona Noah Olga Peter Ruth Simon Tara Victor Wanda Adam Bella Chris
""".split()
LAST_NAMES = """
Adams Baker Clark Davis Evans Ford Gomez Hill Ivanov Jones Kim Lopez Moore Novak Olsen Park
Quist Reed Smith Turner Ueda Vance White Young Zhang Brown Costa Diaz Fisher Gray Hughes King
Lee Meyer Nash Ortiz Perez Ross Silva Taylor Walsh Wood
""".split()
TITLE_FIRST = """
Silent Golden Broken Lost Hidden Red Last First Dark Bright Wild Blue Secret Ancient Frozen
Empty Sweet Distant Green Little Grand Royal Burning White Old
""".split()
TITLE_SECOND = """
River Night Garden Road Star House Storm Forest Dream Crown Window Sea Mirror Tower Winter Song
Valley Bridge Fire Moon Letter Harbor Island Lion Rose
""".split()
SYLLABLES = """
ka lo mi ran ve tor na sel du bri pa gon li mer sa ton fa ri do wen hal be cor el mon ti ra ber
os ni val ke dar lin po su
""".split()
